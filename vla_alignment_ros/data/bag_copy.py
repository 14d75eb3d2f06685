"""Copies of a bag with some of its messages: same topics, notes, storage and compression."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, ExitStack
from pathlib import Path
import shutil
import sqlite3

from rosbags.interfaces import Connection
from rosbags.rosbag2 import (
    CompressionFormat,
    CompressionMode,
    Reader,
    ReaderError,
    StoragePlugin,
    Writer,
)
from rosbags.rosbag2.errors import WriterError

from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.bag_format import message_definition, PREFIX
from vla_alignment_ros.data.files import fsync
from vla_alignment_ros.errors import BagError

_BAG_VERSION = 9  # as `data.bag` writes


class BagCopy:
    """A bag being made in the image of another; see `copy_bag`."""

    def __init__(self, source: Path, writer: Writer) -> None:
        with Reader(source) as reader:
            self._known = {c.topic.lstrip('/'): c for c in reader.connections}
            custom = dict(reader.storage.metadata.custom or {})
        self._writer = writer
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
        self._writer.write(made, ts_ns, raw)

    def note(self, name: str, text: str) -> None:
        """Say something about the copy that the source does not say."""
        self._custom[f'{PREFIX}{name}'] = text

    def finish(self) -> None:
        """Write what the bag says about itself."""
        for key, value in self._custom.items():
            self._writer.set_custom_data(key, value)

    def _connect(self, known: Connection) -> Connection:
        text, digest = known.msgdef.data, known.digest
        if not (text and digest):  # bags of older distributions do not hold them
            text, digest = message_definition(known.msgtype)
        return self._writer.add_connection(
            known.topic,
            known.msgtype,
            msgdef=text,
            rihs01=digest,
            offered_qos_profiles=_offered(known),
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
        writer = Writer(  # refuses a folder that exists
            folder,
            version=_BAG_VERSION,
            storage_plugin=StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3,
        )
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            if source.info.files_compressed or (mcap and any(map(_in_chunks, files))):
                mode = CompressionMode.STORAGE if mcap else CompressionMode.MESSAGE
                writer.set_compression(mode, CompressionFormat.ZSTD)
            with writer:
                copy = BagCopy(source.path, writer)
                yield copy
                copy.finish()
            for file in folder.iterdir():
                fsync(file)
            fsync(folder)
            undo.pop_all()
    except (OSError, ReaderError, WriterError, sqlite3.Error) as error:
        raise BagError(f'cannot copy {source.path} to {folder}: {error}') from error


def _in_chunks(file: Path) -> bool:
    """Whether the chunks of an mcap file are compressed."""
    with Reader(file) as reader:
        return any(chunk.compression for chunk in reader.storage.chunks)


def _offered(connection: Connection) -> list:
    return list(connection.ext.offered_qos_profiles)
