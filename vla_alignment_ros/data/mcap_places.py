"""Single messages of an mcap file, without the others: where each lies is in the file's index.

rosbags reads chunk after chunk, whole. Who wants the stamps of the images, and then one image in
three, need not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
import os
from typing import NamedTuple

import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_mcap import ChunkInfo, McapReader

from vla_alignment_ros.data.mcap_records import (
    CHUNK,
    ENTRY,
    INDEX,
    INDEX_OPCODE,
    LENGTH,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_OPCODE,
    PREFIX,
)

_CHUNK_HEAD = CHUNK.size + LENGTH.size  # before the records of a chunk that is not compressed
_SMALL_BYTES = 4096  # a message up to here is read in one go


class Place(NamedTuple):
    """A message: what the index says of it."""

    connection: Connection
    log_ns: int
    start: int  # of its record in the file
    end: int  # of its chunk


class _Run(NamedTuple):
    """The messages of one channel in one chunk."""

    channel: int
    first: int  # where the chunk's records begin in the file
    stop: int  # and end
    entries: bytes


class PlacedMcap(McapReader):
    """An mcap file whose messages can be read one by one, where it `is_plain`."""

    @property
    def is_plain(self) -> bool:
        """Whether all messages lie in chunks with an index, not compressed and without checksum.

        A checksum tells nothing before the whole chunk is read.
        """
        return bool(self.chunks) and all(
            not chunk.compression and chunk.message_index_length and not self._checksum(chunk)
            for chunk in self.chunks
        )

    def places(self, connections: Collection[Connection]) -> Iterator[Place]:
        """Their messages, in the order of `messages`.

        Raises:
            ReaderError: the index is damaged.
        """
        wanted = {connection.id: connection for connection in connections}
        runs = [
            run
            for chunk in self.chunks
            if not wanted.keys().isdisjoint(chunk.message_index_offsets)
            for run in self._index(chunk)
            if run.channel in wanted
        ]
        entries = np.frombuffer(b''.join(run.entries for run in runs), '<u8').reshape(-1, 2)
        lengths = [len(run.entries) // ENTRY.size for run in runs]
        spans = np.repeat(np.array([run[:3] for run in runs], np.int64), lengths, axis=0)
        log_ns, (ids, first, stop) = entries[:, 0].astype(np.int64), spans.T
        start = entries[:, 1].astype(np.int64) + first
        if not (first <= start).all() or not (start <= stop - MESSAGE.size).all():
            raise ReaderError(f'The index of {self.path.name} points out of its chunks.')
        # of equal times the earlier in the file: chunks, and messages within a chunk, in order
        for i in np.lexsort((start, log_ns)).tolist():
            yield Place(wanted[int(ids[i])], int(log_ns[i]), int(start[i]), int(stop[i]))

    def read(self, place: Place, most: int) -> bytes:
        """A message's data, or no more than the first `most` bytes of it.

        Raises:
            ReaderError: there is another one, or none.
        """
        start, end = place.start + MESSAGE.size, place.end
        head_bytes = MESSAGE.size + min(most, _SMALL_BYTES)
        head = self._at(place.start, min(head_bytes, end - place.start))
        opcode, length, channel, _, log_ns, _ = MESSAGE.unpack_from(head)
        size = length - MESSAGE_HEAD
        if (opcode, channel, log_ns) != (MESSAGE_OPCODE, place.connection.id, place.log_ns):
            raise ReaderError(f'The index is wrong about the message at offset {place.start}.')
        if not 0 <= size <= end - start:
            raise ReaderError(f'The message at offset {place.start} is longer than its chunk.')
        size = min(size, most)
        if size <= len(head) - MESSAGE.size:
            return head[MESSAGE.size : MESSAGE.size + size]
        return self._at(start, size)

    def _at(self, start: int, size: int) -> bytes:
        data = os.pread(self.bio.fileno(), size, start)
        if len(data) != size:
            raise ReaderError(f'Truncated record at offset {start}.')
        return data

    def _checksum(self, chunk: ChunkInfo) -> int:
        return CHUNK.unpack(self._at(chunk.chunk_start_offset, CHUNK.size))[5]

    def _index(self, chunk: ChunkInfo) -> Iterator[_Run]:
        """What the index of a chunk says of each of its channels."""
        stop = chunk.chunk_start_offset + chunk.chunk_length
        index, place = self._at(stop, chunk.message_index_length), 0
        while place < len(index):
            opcode, length, channel, size = INDEX.unpack_from(index, place)
            place += INDEX.size + size
            whole = length == INDEX.size - PREFIX + size and place <= len(index)
            if opcode != INDEX_OPCODE or not whole or size % ENTRY.size:
                raise ReaderError(f'The index at offset {stop} is damaged.')
            first = chunk.chunk_start_offset + _CHUNK_HEAD
            yield _Run(channel, first, stop, index[place - size : place])
