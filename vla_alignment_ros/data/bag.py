"""One rosbag2 folder per episode: written whole or not at all, read as a stream.

An episode is an ordinary rosbag2 bag (`ros2 bag info`, `ros2 bag play` and Foxglove read it). What
makes it a demonstration travels in the bag's custom data: the embodiment, the instruction and
whether it succeeded.

While it is recorded, an episode lives in `.<name>.partial` beside its final place. `finish` puts
everything on the disk and renames it into place in one step, so a folder without `.partial` is
always complete, and a crash leaves a `.partial` folder that is never taken for an episode.

Topic names: in the file they are absolute (`/front/image_raw`, what ROS tools expect); this
module takes and gives them as the embodiment spells them (`front/image_raw`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
import os
from pathlib import Path
import re
import shutil
import sqlite3
import threading
from types import TracebackType

from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError

from vla_alignment_ros.data.bag_format import (
    custom_data,
    default_qos,
    EpisodeInfo,
    message_definition,
    METADATA,
    OfferedQos,
    read_info,
    rosbag_qos,
    sanitize_name,
    spell,
    topic_spelling,
)
from vla_alignment_ros.data.files import fsync
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError
from vla_alignment_ros.observation import MAX_INSTRUCTION_CHARS

__all__ = ['EpisodeInfo', 'EpisodeReader', 'EpisodeWriter', 'OfferedQos', 'find_episodes']

STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
COMPRESSIONS = (None, 'zstd')

_BAG_VERSION = 9  # rosbag2 of Jazzy and later; rosbags reads every older one


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

    Args:
        root: the folder that receives the episode; made if missing.
        embodiment: stored in the bag, and the source of the default qualities of service.
        name: folder name (made safe); by default `episode_000123_20261123T101500Z`.
        storage: 'mcap' or 'sqlite3'.
        compression: None or 'zstd' (mcap: by chunk; sqlite3: by message).
        qos: offered quality of service of topics where the default is wrong.

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
        qos: Mapping[str, OfferedQos] | None = None,
    ) -> None:
        if storage not in STORAGES:
            raise BagError(f'storage {storage!r} is unknown; allowed: {", ".join(STORAGES)}')
        if compression not in COMPRESSIONS:
            raise BagError(f'compression {compression!r} is unknown; allowed: None, zstd')
        self.embodiment = embodiment
        self.message_counts: dict[str, int] = {}
        self.bytes_written = 0
        self._instruction = ''
        self._qos = {**default_qos(embodiment), **(qos or {})}
        self._connections: dict[str, Connection] = {}
        self._lock = threading.Lock()
        self._open = False
        root = Path(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.path, self._partial = _claim(root, name)
            self._writer = Writer(
                self._partial / self.path.name,
                version=_BAG_VERSION,
                storage_plugin=STORAGES[storage],
            )
            if compression is not None:
                by_chunk = storage == 'mcap'
                mode = CompressionMode.STORAGE if by_chunk else CompressionMode.MESSAGE
                self._writer.set_compression(mode, CompressionFormat.ZSTD)
            self._writer.open()
        except (OSError, WriterError, sqlite3.Error) as error:
            raise BagError(f'cannot record into {root}: {error}') from error
        self._open = True

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
                self._writer.write(connection, ts_ns, raw)
            except (OSError, WriterError, sqlite3.Error) as error:
                raise BagError(f'cannot write to episode {self.path.name}: {error}') from error
            self.message_counts[topic] = self.message_counts.get(topic, 0) + 1
            self.bytes_written += len(raw)

    def set_instruction(self, text: str) -> None:
        """What the robot was told to do in this episode; cut to what is ever read of it."""
        with self._lock:
            self._check_open()
            self._instruction = text[:MAX_INSTRUCTION_CHARS]

    def finish(self, success: bool | None, extra: Mapping[str, str] | None = None) -> Path:
        """Make the episode durable and visible; its folder is returned.

        Args:
            success: whether the task was done; None where nobody judged.
            extra: more custom data, strings by name (`seed`, `task`, `split`, …).

        Raises:
            BagError: nothing was recorded, the disk is full, or the name was taken meanwhile.
        """
        custom = custom_data(self.embodiment, self._instruction, success, extra or {})
        with self._lock:
            self._check_open()
            if not self.message_counts:
                raise BagError(f'episode {self.path.name} holds no message; nothing to keep')
            try:
                for key, value in custom.items():
                    self._writer.set_custom_data(key, value)
                self._writer.close()
                written = self._partial / self.path.name
                for file in written.iterdir():
                    fsync(file)
                fsync(written)
                if self.path.exists():
                    raise BagError(f'{self.path} exists already; it is not overwritten')
                os.rename(written, self.path)
                self._open = False
                fsync(self.path.parent)
            except (OSError, WriterError, sqlite3.Error) as error:
                raise BagError(f'cannot finish episode {self.path.name}: {error}') from error
            shutil.rmtree(self._partial, ignore_errors=True)  # an empty shell by now
        return self.path

    def discard(self) -> None:
        """Forget the episode and remove its files; nothing happens after `finish`."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            with suppress(OSError, sqlite3.Error):
                self._writer.abort()
            shutil.rmtree(self._partial, ignore_errors=True)

    def _check_open(self) -> None:
        if not self._open:
            raise BagError(f'episode {self.path.name} is finished or discarded already')

    def _connect(self, topic: str, msgtype: str) -> Connection:
        msgdef, digest = message_definition(msgtype)
        connection = self._writer.add_connection(
            topic if topic.startswith('/') else f'/{topic}',
            msgtype,
            msgdef=msgdef,
            rihs01=digest,
            offered_qos_profiles=[rosbag_qos(self._qos.get(topic, OfferedQos()))],
        )
        self._connections[topic] = connection
        return connection


class EpisodeReader:
    """One episode, or any rosbag2 bag, for reading.

    Args:
        path: its folder.
        embodiment: whose spelling of the topics counts, in place of the bag's own embodiment.

    Raises:
        BagError: not a bag, or its metadata is broken. Damaged message files show in `messages`.
    """

    reading = ''  # see `source.Episode`

    def __init__(self, path: Path | str, embodiment: Embodiment | None = None) -> None:
        self.path = Path(path)
        self.info = read_info(self.path, embodiment)
        self._spelling = topic_spelling(embodiment or self.info.embodiment)

    def messages(
        self, topics: Iterable[str] | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """(topic, type, log time in ns, CDR bytes) in log-time order, without loading the bag.

        Args:
            topics: only these; all by default. A topic that is not in the bag gives nothing.

        Raises:
            BagError: a file is missing, truncated or damaged; the message names it.
        """
        wanted = None if topics is None else {topic.lstrip('/') for topic in topics}
        count = 0
        try:
            for source in self._sources():
                with Reader(source) as reader:
                    chosen = [
                        c
                        for c in reader.connections
                        if wanted is None or c.topic.lstrip('/') in wanted
                    ]
                    if not chosen:
                        continue
                    names = {c.id: spell(c.topic, self._spelling) for c in chosen}
                    for connection, ts_ns, raw in reader.messages(chosen):
                        count += 1
                        yield names[connection.id], connection.msgtype, ts_ns, raw
        except Exception as error:  # damaged bytes surface as nearly any exception; re-raised
            reason = str(error) or type(error).__name__
            raise BagError(f'{self.path} cannot be read, it is damaged: {reason}') from error
        counts = self.info.message_counts
        promised = sum(n for t, n in counts.items() if wanted is None or t.lstrip('/') in wanted)
        if count != promised:
            raise BagError(f'{self.path} is damaged: {count} of {promised} messages are there')

    heads = messages  # an image lies in the file whole

    def files(self) -> list[Path]:
        """The files in its folder."""
        return [Path(entry.path) for entry in os.scandir(self.path) if entry.is_file()]

    def _sources(self) -> list[Path]:
        # the files themselves where they can be read alone: rosbags parses a folder's
        # metadata.yaml in pure Python, which takes longer than reading a short episode
        if self.info.files_compressed:
            return [self.path]
        return [self.path / name for name in self.info.files]


# -- names and places ---------------------------------------------------------------------------


def _claim(root: Path, name: str | None) -> tuple[Path, Path]:
    """Reserve a name: (final path, partial folder just made)."""
    safe = sanitize_name(name) if name else ''
    if safe:
        final, partial = root / safe, root / f'.{safe}.partial'
        if final.exists():
            raise BagError(f'{final} exists already; it is not overwritten, choose another name')
        try:
            partial.mkdir()
        except FileExistsError:
            raise BagError(
                f'{partial} exists: this episode is being recorded, or its recording crashed; '
                f'remove that folder or choose another name'
            ) from None
        return final, partial
    taken = [re.match(r'\.?episode_(\d{6,})_', entry.name) for entry in root.iterdir()]
    number = 1 + max((int(match[1]) for match in taken if match), default=-1)
    while True:
        utc = datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')
        final = root / f'episode_{number:06d}_{utc}'
        partial = root / f'.{final.name}.partial'
        number += 1
        if final.exists():
            continue
        with suppress(FileExistsError):
            partial.mkdir()
            return final, partial
