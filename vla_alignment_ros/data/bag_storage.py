"""The files of a bag, written so that a process that is killed loses little: rosbags' storages.

rosbags keeps a chunk of mcap in memory until it has grown to 1 MiB, then hands part of it to a
buffered file; and everything of a sqlite3 bag until the end. Here `flush` gives all that was
written to the operating system, where no death of the process can reach it, and the bytes of a
message are not copied on their way.
"""

from __future__ import annotations

from collections import defaultdict
from io import BytesIO
import os
from pathlib import Path
import struct
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2.enums import CompressionMode
from rosbags.rosbag2.storage_mcap import McapWriter, PendingChunk
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from vla_alignment_ros.data.mcap_records import (
    CHUNK,
    CHUNK_OPCODE,
    ENTRY,
    INDEX,
    INDEX_OPCODE,
    LENGTH,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_OPCODE,
    PREFIX,
)

_NO_CHECKSUM = 0
_FIRST = 2**63 - 1  # rosbags' start time of a chunk without messages
_MOST_PIECES = 1024  # of one writev(2), on Linux
_JOIN_BYTES = 4096  # on average: smaller pieces are copied together, larger ones cost more to copy


class SteadyMcap(McapWriter):
    """An mcap file whose chunks end where `flush` says."""

    def __init__(self, path: Any, compression: CompressionMode) -> None:
        super().__init__(path, compression)
        self._pieces: list[bytes] = []  # head and data of every message of the chunk, in turn
        self._plain = 0  # their bytes
        self.bio.flush()
        self._end = self.bio.tell()  # of what was given to the operating system

    @property
    def size(self) -> int:
        """Bytes that the file has, or will have with the next `flush`."""
        return self._end + self._plain

    def write(self, connection: Connection, timestamp: int, data: bytes) -> None:
        """Append one message."""
        chunk, channel, size = self.chunk, connection.id, len(data)
        if timestamp < chunk.message_start_time:
            chunk.message_start_time = timestamp
        if timestamp > chunk.message_end_time:
            chunk.message_end_time = timestamp
        chunk.msgs[channel].append((timestamp, self._plain))
        head = MESSAGE.pack(
            MESSAGE_OPCODE, MESSAGE_HEAD + size, channel, 0, timestamp, timestamp
        )
        self._pieces += (head, data)
        self._plain += MESSAGE.size + size

    def flush(self) -> None:
        """Give all that was written to the operating system, as one chunk."""
        if self._plain or self.chunk.bio.tell():
            self.close_chunk()

    def close_chunk(self) -> None:
        """Write the chunk and its index; what is in the file afterwards is whole."""
        chunk = self.chunk
        head = chunk.bio.getvalue()  # schemas and channels come before all messages
        plain = len(head) + self._plain
        pieces = [head, *self._pieces] if head else self._pieces
        if self.compression:
            pieces = [self.compressor(b''.join(pieces))]
        elif plain < _JOIN_BYTES * len(pieces):
            pieces = [b''.join(pieces)]
        packed = len(pieces[0]) if len(pieces) == 1 else plain
        name = self.compression.encode()
        about = name + LENGTH.pack(packed)
        start, end = chunk.message_start_time, chunk.message_end_time
        chunk_bytes = CHUNK.size + len(about) + packed
        length = chunk_bytes - PREFIX
        opening = CHUNK.pack(CHUNK_OPCODE, length, start, end, plain, _NO_CHECKSUM, len(name))
        index, offsets = bytearray(), bytearray()
        for channel, messages in chunk.msgs.items():
            place = self._end + chunk_bytes + len(index)
            offsets += struct.pack('<HQ', channel, place)
            entries = len(messages) * ENTRY.size
            length = INDEX.size - PREFIX + entries
            index += INDEX.pack(INDEX_OPCODE, length, channel, entries)
            for timestamp, offset in messages:
                index += ENTRY.pack(timestamp, len(head) + offset)
        _write_all(self.bio.fileno(), [opening + about, *pieces, index])

        info = BytesIO()  # as rosbags keeps them until the end of the file
        about = struct.pack('<QQQQI', start, end, self._end, chunk_bytes, len(offsets)) + offsets
        about += struct.pack('<QI', len(index), len(name)) + name
        info.write(about + struct.pack('<QQ', packed, plain))
        self.chunks.append(info)
        self._end += chunk_bytes + len(index)
        self.message_start_time = min(self.message_start_time, start)
        self.message_end_time = max(self.message_end_time, end)
        for channel, messages in chunk.msgs.items():
            self.channel_stats[channel] += len(messages)
        self.chunk = PendingChunk(_FIRST, 0, BytesIO(), defaultdict(list))
        self._pieces, self._plain = [], 0

    def close(self, version: int, metadata: str) -> None:
        """Write what is left, the index of the file and its metadata."""
        self.flush()
        super().close(version, metadata)


def _write_all(descriptor: int, pieces: list[bytes | bytearray]) -> None:
    """Write them in one go, without a buffer; the system may take less than it is given."""
    while pieces:
        done = os.writev(descriptor, pieces[:_MOST_PIECES])
        while pieces and done >= len(pieces[0]):
            done -= len(pieces.pop(0))
        if done:
            pieces[0] = pieces[0][done:]


class SteadySqlite3(Sqlite3Writer):
    """A sqlite3 file that commits where `flush` says."""

    def __init__(self, path: Any, compression: CompressionMode) -> None:
        super().__init__(path, compression)
        # what a commit gives to the operating system survives the process; a finished bag is
        # made durable as a whole, and not page by page
        self.conn.execute('PRAGMA synchronous=OFF')
        self._written = 0

    @property
    def size(self) -> int:
        """Bytes of messages so far."""
        return self._written

    def write(self, connection: Connection, timestamp: int, data: bytes) -> None:
        """Append one message."""
        super().write(connection, timestamp, data)
        self._written += len(data)

    def flush(self) -> None:
        """Give all that was written to the operating system."""
        self.conn.commit()


STORAGES = {'mcap': SteadyMcap, 'sqlite3': SteadySqlite3}
SUFFIXES = {'mcap': '.mcap', 'sqlite3': '.db3'}


class NamedFolder:
    """A folder that rosbags takes to have another name: it calls the file in it by that name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._folder = name, folder

    def __truediv__(self, file: str) -> Path:
        return self._folder / file
