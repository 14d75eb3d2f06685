"""The folder of a rosbag2 bag in the making: one storage file or several, and `metadata.yaml`.

Between two calls at most `UNSAVED_BYTES`, or what came in the last `UNSAVED_S`, is in the memory
of this process alone; a message that is larger goes to the operating system at once, together with
what waited before it where both are no more than `CHUNK_BYTES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
import sqlite3
import time

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, Qos
from rosbags.rosbag2.enums import CompressionMode
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.metadata import dump_qos_v9
import yaml
import zstandard

from vla_alignment_ros.data.bag_format import METADATA
from vla_alignment_ros.data.bag_storage import NamedFolder, STORAGES
from vla_alignment_ros.data.files import fsync

UNSAVED_BYTES = 256 * 2**10  # a chunk of mcap, or a transaction of sqlite3, is closed beyond it
CHUNK_BYTES = 2**20  # and has no more than this, but for a single message
UNSAVED_S = 0.25
STORAGE_ERRORS = (OSError, WriterError, sqlite3.Error)  # what a disk can make of a write

_BAG_VERSION = 9  # rosbag2 of Jazzy and later; rosbags reads every older one
_DUMPER = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


@dataclass
class _Span:
    """What a storage file holds."""

    name: str
    first_ns: int = 2**63 - 1
    last_ns: int = 0
    counts: Counter[int] = field(default_factory=Counter)  # by connection

    def add(self, connection: int, ts_ns: int) -> None:
        self.first_ns, self.last_ns = min(self.first_ns, ts_ns), max(self.last_ns, ts_ns)
        self.counts[connection] += 1

    def to_dict(self) -> dict:
        return {
            'path': self.name,
            'starting_time': {'nanoseconds_since_epoch': self.first_ns},
            'duration': {'nanoseconds': max(0, self.last_ns - self.first_ns)},
            'message_count': self.counts.total(),
        }


class BagWriter:
    """Writes one bag into a folder that it makes. Not thread-safe.

    Every method lets the errors of the storage through: `STORAGE_ERRORS`. After one of them
    nothing but `abort` makes sense; `saved` then says what is in the files.

    Args:
        folder: named as the bag will be.
        storage: a key of `STORAGES`.
        compressed: with zstd; mcap by chunk, sqlite3 by message.
        split_bytes: begin another file before one grows beyond this; 0: a single file.
    """

    def __init__(
        self, folder: Path, storage: str, compressed: bool = False, split_bytes: int = 0
    ) -> None:
        self.folder = folder
        self.connections: list[Connection] = []
        self.saved: Counter[str] = Counter()  # topic -> messages given to the operating system
        self._unsaved: dict[str, int] = {}
        self._unsaved_bytes = 0
        self._unsaved_since_s = 0.0  # steady
        self._storage_name, self._compressed = storage, compressed
        self._split_bytes = split_bytes
        self._by_message = compressed and storage != 'mcap'
        self._files: list[_Span] = []
        folder.mkdir(parents=True)
        self._storage = self._open_file()

    def connect(
        self,
        topic: str,
        msgtype: str,
        definition: MessageDefinition,
        digest: str,
        offered: Sequence[Qos],
    ) -> Connection:
        """Add a topic. digest: the RIHS01 hash of its type; offered: of every publisher."""
        connection = Connection(
            id=len(self.connections) + 1,
            topic=topic,
            msgtype=msgtype,
            msgdef=definition,
            digest=digest,
            msgcount=0,
            ext=ConnectionExtRosbag2('cdr', list(offered)),
            owner=self,
        )
        self._register(connection, first_of_type=self._is_new(msgtype))
        self.connections.append(connection)
        return connection

    def write(self, connection: Connection, ts_ns: int, raw: bytes) -> None:
        """Append one message; ts_ns: its log time."""
        data = zstandard.compress(raw) if self._by_message else raw
        topic, size = connection.topic, len(data)
        if self._unsaved_bytes and self._unsaved_bytes + size > CHUNK_BYTES:
            self.flush()
        full = self._storage.size + size > self._split_bytes
        if self._split_bytes and full and self._files[-1].counts:
            self._next_file()
        if not self._unsaved:
            self._unsaved_since_s = time.monotonic()
        self._storage.write(connection, ts_ns, data)
        self._unsaved[topic] = self._unsaved.get(topic, 0) + 1
        self._unsaved_bytes += size
        self._files[-1].add(connection.id, ts_ns)
        if self._unsaved_bytes >= UNSAVED_BYTES:
            self.flush()
        else:
            self.flush_if_late()

    def flush_if_late(self) -> None:
        """Flush what has waited for `UNSAVED_S`."""
        if self._unsaved and time.monotonic() - self._unsaved_since_s >= UNSAVED_S:
            self.flush()

    def flush(self) -> None:
        """Give everything to the operating system: the end of this process does not lose it."""
        self._storage.flush()
        for topic, count in self._unsaved.items():
            self.saved[topic] += count
        self._unsaved.clear()
        self._unsaved_bytes = 0

    def close(self, custom: Mapping[str, str]) -> None:
        """Finish all files and `metadata.yaml`, and put them on the disk itself.

        custom: what the bag says about itself, text by name.
        """
        self.flush()
        document = self._document(self._files, dict(custom))
        self._close_file(document)
        text = yaml.dump(
            {'rosbag2_bagfile_information': document},
            Dumper=_DUMPER, sort_keys=False, allow_unicode=True,
        )  # fmt: skip
        (self.folder / METADATA).write_text(text, encoding='utf-8')
        for file in self.folder.iterdir():
            fsync(file)
        fsync(self.folder)

    def abort(self) -> None:
        """Close the files as they are."""
        with suppress(*STORAGE_ERRORS, ValueError):  # ValueError: closed already
            self._storage.abort()

    # -- files ----------------------------------------------------------------------------------

    def _open_file(self):
        name = self.folder.name
        if self._split_bytes:
            name = f'{name}_{len(self._files)}'
        by_chunk = self._compressed and not self._by_message
        mode = CompressionMode.STORAGE if by_chunk else CompressionMode.NONE
        storage = STORAGES[self._storage_name](NamedFolder(self.folder, name), mode)
        self._files.append(_Span(storage.path.name))
        return storage

    def _next_file(self) -> None:
        self.flush()
        self._close_file(self._document(self._files[-1:], {}))
        self._storage = self._open_file()
        known: set[str] = set()
        for connection in self.connections:
            self._register(connection, connection.msgtype not in known)
            known.add(connection.msgtype)

    def _close_file(self, document: dict) -> None:
        text = yaml.dump(document, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
        self._storage.close(_BAG_VERSION, text)

    def _register(self, connection: Connection, first_of_type: bool) -> None:
        if first_of_type:
            self._storage.add_msgtype(connection)
        offered = dump_qos_v9(connection.ext.offered_qos_profiles)
        text = yaml.dump(offered, Dumper=_DUMPER, sort_keys=False).strip() if offered else ''
        self._storage.add_connection(connection, text)

    def _is_new(self, msgtype: str) -> bool:
        return all(connection.msgtype != msgtype for connection in self.connections)

    def _document(self, files: Sequence[_Span], custom: dict[str, str]) -> dict:
        first_ns = min(file.first_ns for file in files)
        last_ns = max(file.last_ns for file in files)
        counts = sum((file.counts for file in files), Counter())
        return {
            'version': _BAG_VERSION,
            'storage_identifier': self._storage_name,
            'relative_file_paths': [file.name for file in files],
            'duration': {'nanoseconds': max(0, last_ns - first_ns)},
            'starting_time': {'nanoseconds_since_epoch': first_ns},
            'message_count': counts.total(),
            'topics_with_message_count': [
                {
                    'topic_metadata': {
                        'name': c.topic,
                        'type': c.msgtype,
                        'serialization_format': c.ext.serialization_format,
                        'offered_qos_profiles': dump_qos_v9(c.ext.offered_qos_profiles),
                        'type_description_hash': c.digest,
                    },
                    'message_count': counts[c.id],
                }
                for c in self.connections
            ],
            'compression_format': 'zstd' if self._by_message else '',
            'compression_mode': 'message' if self._by_message else '',
            'files': [file.to_dict() for file in files],
            'custom_data': custom or None,
            'ros_distro': 'rosbags',
        }
