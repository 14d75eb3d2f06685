"""Copies of a bag with some of its messages: same topics, notes, storage and compression."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, ExitStack
from pathlib import Path
import shutil

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError

from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.bag_format import message_definition, PREFIX
from vla_alignment_ros.data.bag_salvage import is_compressed
from vla_alignment_ros.data.bag_writer import BagWriter, STORAGE_ERRORS
from vla_alignment_ros.errors import BagError


class BagCopy:
    """A bag being made in the image of another; see `copy_bag`."""

    def __init__(self, source: Path, bag: BagWriter) -> None:
        with Reader(source) as reader:
            self._known = {c.topic.lstrip('/'): c for c in reader.connections}
            custom = dict(reader.storage.metadata.custom or {})
        self._bag = bag
        self._custom = {str(key): str(value) for key, value in custom.items()}
        self._made: dict[str, Connection] = {}

    @property
    def latched(self) -> frozenset[str]:
        """Topics, without leading slash, whose last message reaches those who come later."""
        return frozenset(
            topic
            for topic, connection in self._known.items()
            if any(q.durability.name == 'TRANSIENT_LOCAL' for q in _offered(connection))
        )

    def write(self, topic: str, ts_ns: int, raw: bytes) -> None:
        """Append one message of a topic of the source. ts_ns: its log time."""
        bare = topic.lstrip('/')
        made = self._made.get(bare)
        if made is None:
            made = self._made[bare] = self._connect(self._known[bare])
        self._bag.write(made, ts_ns, raw)

    def note(self, name: str, text: str) -> None:
        """Say something about the copy that the source does not say."""
        self._custom[f'{PREFIX}{name}'] = text

    def finish(self) -> None:
        """Put it on the disk, with what it says about itself."""
        self._bag.close(self._custom)

    def _connect(self, known: Connection) -> Connection:
        definition, digest = known.msgdef, known.digest
        if not (definition.data and digest):  # bags of older distributions do not hold them
            definition, digest = message_definition(known.msgtype)
        return self._bag.connect(
            known.topic, known.msgtype, definition, digest, _offered(known)
        )


@contextmanager
def copy_bag(source: EpisodeReader, folder: Path) -> Iterator[BagCopy]:
    """A new bag in `folder`, which must not exist; on the disk when the context ends.

    Nothing is left behind where an error ends it.

    Raises:
        BagError: the source cannot be read, or the copy not written.
    """
    files = [source.path / name for name in source.info.files]
    mcap = all(file.suffix != '.db3' for file in files)
    try:
        compressed = source.info.files_compressed or any(map(is_compressed, files))
        # refuses a folder that exists
        bag = BagWriter(folder, 'mcap' if mcap else 'sqlite3', compressed)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            undo.callback(bag.abort)
            copy = BagCopy(source.path, bag)
            yield copy
            copy.finish()
            undo.pop_all()
    except (*STORAGE_ERRORS, ReaderError) as error:
        raise BagError(f'cannot copy {source.path} to {folder}: {error}') from error


def _offered(connection: Connection) -> list:
    return list(connection.ext.offered_qos_profiles)
