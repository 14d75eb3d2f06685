"""One rosbag2 folder per episode: written whole or not at all, read as a stream.

An episode is an ordinary rosbag2 bag (`ros2 bag info`, `ros2 bag play` and Foxglove read it). What
makes it a demonstration travels in the bag's custom data: the embodiment, the instruction and
whether it succeeded.

While it is recorded, an episode lives in `.<name>.partial` beside its final place. `finish` puts
everything on the disk and renames it into place in one step, so a folder without `.partial` is
always complete, and a crash leaves a `.partial` folder that is never taken for an episode, and
that `vla_bag recover` makes one of.

Topic names: in the file they are absolute (`/front/image_raw`, what ROS tools expect); this
module takes and gives them as the embodiment spells them (`front/image_raw`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
import os
from pathlib import Path
import secrets
import threading
from types import TracebackType

from rosbags.interfaces import Connection

from vla_alignment_ros.data.bag_format import (
    custom_data,
    default_qos,
    EpisodeInfo,
    message_definition,
    METADATA,
    OfferedQos,
    rosbag_qos,
)
from vla_alignment_ros.data.bag_places import claim
from vla_alignment_ros.data.bag_reader import EpisodeReader
from vla_alignment_ros.data.bag_storage import STORAGES
from vla_alignment_ros.data.bag_writer import BagWriter, STORAGE_ERRORS
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError
from vla_alignment_ros.observation import MAX_INSTRUCTION_CHARS

__all__ = ['EpisodeInfo', 'EpisodeReader', 'EpisodeWriter', 'OfferedQos', 'find_episodes']

COMPRESSIONS = (None, 'zstd')


def find_episodes(root: Path | str) -> list[Path]:
    """Every finished episode under `root` (or `root` itself), sorted; hidden folders are skipped.

    `root` may also be a text file that lists episodes, one a line.

    Raises:
        BagError: `root` is neither, or an episode of the list is not there.
    """
    root = Path(root)
    if root.is_file():
        return _listed(root)
    if not root.is_dir():
        raise BagError(f'no folder {root}: give the folder that holds the recorded episodes')
    found = []
    for folder, subfolders, files in os.walk(root):
        if METADATA in files:
            found.append(Path(folder))
            subfolders.clear()  # a bag holds no bags
        subfolders[:] = [name for name in subfolders if not _unfinished(name)]
    return sorted(found)


def _listed(file: Path) -> list[Path]:
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BagError(f'{file} is no list of episodes, one a line: {error}') from error
    found = [file.parent / line for line in lines if line]
    for episode in found:
        if not (episode / METADATA).is_file():
            raise BagError(f'{file} lists {episode}, which is no episode (any more)')
    return found


def _unfinished(name: str) -> bool:
    return name.startswith('.') or name.endswith('.partial')


class EpisodeWriter:
    """Records one episode; a context manager. Leaving it without `finish` discards the episode.

    Calls may come from several threads (sqlite3 storage: from the thread that made the writer).
    What the end of this process can cost is said in `bag_writer`; after an error, `abandon`
    keeps what was saved until then.

    Args:
        root: the folder that receives the episode; made if missing.
        embodiment: stored in the bag, and the source of the default qualities of service.
        name: folder name (made safe); by default `episode_000123_20261123T101500Z`.
        storage: 'mcap' or 'sqlite3'.
        compression: None or 'zstd' (mcap: by chunk; sqlite3: by message).
        offered: is asked at a topic's first message what its publishers offer; nothing: the
            embodiment's default.
        split_bytes: begin another storage file before one grows beyond this; 0: a single one.

    Raises:
        BagError: the episode exists already, or the folder cannot be written.
    """

    def __init__(
        self,
        root: Path | str,
        embodiment: Embodiment,
        name: str | None = None,
        storage: str = 'mcap',
        compression: str | None = None,
        offered: Callable[[str], Sequence[OfferedQos] | None] = lambda topic: None,
        split_bytes: int = 0,
    ) -> None:
        if storage not in STORAGES:
            raise BagError(f'storage {storage!r} is unknown; allowed: {", ".join(STORAGES)}')
        if compression not in COMPRESSIONS:
            raise BagError(f'compression {compression!r} is unknown; allowed: None, zstd')
        self.embodiment = embodiment
        self.message_counts: dict[str, int] = {}
        self.bytes_written = 0
        self._instruction = ''
        self._notes: dict[str, str] = {}
        self._id = secrets.token_hex(8)
        self._offered, self._defaults = offered, default_qos(embodiment)
        self._connections: dict[str, Connection] = {}
        self._lock = threading.Lock()
        self._open = self._abandoned = self._failed = False
        root = Path(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._place = claim(root, name)
            try:
                self._describe()
                self._bag = BagWriter(
                    self._place.bag, storage, compression is not None, split_bytes
                )
            except STORAGE_ERRORS:
                self._place.remove()
                raise
        except STORAGE_ERRORS as error:
            raise BagError(f'cannot record into {root}: {error}') from error
        self.path, self._open = self._place.final, True

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open:
            self.discard()

    def write(self, topic: str, msgtype: str, ts_ns: int, raw: bytes | memoryview) -> None:
        """Append one message.

        Args:
            topic: as the embodiment spells it.
            msgtype: for example 'sensor_msgs/msg/Image'; one type per topic.
            ts_ns: log time, ns; the order of the bag.
            raw: the CDR bytes as they came from the wire.

        Raises:
            BagError: closed, disk full, or a type that contradicts the topic's.
        """
        with self._lock:
            self._check_open()
            try:
                connection = self._connections.get(topic) or self._connect(topic, msgtype)
                if connection.msgtype != msgtype:
                    raise BagError(
                        f'topic {topic!r} carries {connection.msgtype}, got a {msgtype}'
                    )
                if not 0 <= ts_ns < 2**63:
                    raise BagError(f'time stamp {ts_ns} ns on {topic!r} is out of range')
                self._bag.write(connection, ts_ns, raw if isinstance(raw, bytes) else bytes(raw))
            except STORAGE_ERRORS as error:
                raise self._failure(error) from error
            self.message_counts[topic] = self.message_counts.get(topic, 0) + 1
            self.bytes_written += len(raw)

    def flush_if_late(self) -> None:
        """Save what has waited for too long; to be called now and then while nothing comes.

        Raises:
            BagError: the disk is full, or the folder is gone.
        """
        with self._lock:
            self._check_open()
            try:
                self._bag.flush_if_late()
                os.stat(self._place.bag)
            except STORAGE_ERRORS as error:
                raise self._failure(error) from error

    def saved_counts(self) -> dict[str, int]:
        """Messages by topic that not even the end of this process can take away."""
        with self._lock:
            return {t: self._bag.saved[c.topic] for t, c in self._connections.items()}

    def set_instruction(self, text: str) -> None:
        """What the robot was told to do in this episode; cut to what is ever read of it."""
        text = text[:MAX_INSTRUCTION_CHARS]
        with self._lock:
            self._check_open()
            if text != self._instruction:
                self._instruction = text
                self._tell()

    def note(self, key: str, value: str) -> None:
        """Add custom data to the bag (`finish` may replace it).

        Raises:
            BagError: the name is reserved, or the disk failed.
        """
        with self._lock:
            self._check_open()
            notes = self._notes | {key: value}
            custom_data(self.embodiment, '', None, notes)  # refuses what `finish` would refuse
            self._notes = notes
            self._tell()

    def finish(self, success: bool | None, extra: Mapping[str, str] | None = None) -> Path:
        """Make the episode durable and visible; its folder is returned.

        Args:
            success: whether the task was done; None where nobody judged.
            extra: more custom data, strings by name (`seed`, `task`, `split`, …).

        Raises:
            BagError: nothing was recorded, the disk is full, or the name was taken meanwhile.
        """
        notes = self._notes | dict(extra or {})
        custom = custom_data(self.embodiment, self._instruction, success, notes)
        with self._lock:
            self._check_open()
            if not self.message_counts:
                raise BagError(f'episode {self.path.name} holds no message; nothing to keep')
            try:
                self._bag.close(custom)
                self._place.move()
            except STORAGE_ERRORS as error:
                self._failed = True
                raise BagError(f'cannot finish episode {self.path.name}: {error}') from error
            self._open = False
            self._place.remove()  # an empty shell by now
        return self.path

    def discard(self) -> None:
        """Forget the episode and remove its files, also those that `abandon` left.

        Nothing happens after `finish`.
        """
        with self._lock:
            if self._open:
                self._bag.abort()
            if self._open or self._abandoned:
                self._open = self._abandoned = False
                self._place.remove()

    def abandon(self, reason: str) -> Path | None:
        """Stop recording, and leave what was saved where `vla_bag recover` finds it.

        Returns:
            that folder; None where nothing was saved, and nothing is left behind.
        """
        with self._lock:
            if not self._open:
                return None
            self._open = False
            if not self._failed:  # else nobody knows what a second try would do
                with suppress(*STORAGE_ERRORS):
                    self._bag.flush()
            self._bag.abort()
            if not self._bag.saved or not self._place.bag.exists():
                self._place.remove()
                return None
            with suppress(OSError):  # a full disk: the recording is worth more than the reason
                self._describe(reason)
            self._place.leave()
            self._abandoned = True
            return self._place.partial

    def _failure(self, error: Exception) -> BagError:
        self._failed = True
        return BagError(f'cannot write to episode {self.path.name}: {error}')

    def _check_open(self) -> None:
        if not self._open:
            raise BagError(f'episode {self.path.name} is finished or discarded already')

    def _tell(self) -> None:
        try:
            self._describe()
        except OSError as error:
            raise self._failure(error) from error

    def _describe(self, incomplete: str = '') -> None:
        self._place.describe(
            {
                'id': self._id,
                'embodiment': self.embodiment.to_dict(),
                'instruction': self._instruction,
                'notes': self._notes,
                'incomplete': incomplete,
            }
        )

    def _connect(self, topic: str, msgtype: str) -> Connection:
        definition, digest = message_definition(msgtype)
        default = self._defaults.get(topic, OfferedQos())
        connection = self._bag.connect(
            topic if topic.startswith('/') else f'/{topic}',
            msgtype,
            definition,
            digest,
            [rosbag_qos(qos) for qos in self._offered(topic) or (default,)],
        )
        self._connections[topic] = connection
        return connection
