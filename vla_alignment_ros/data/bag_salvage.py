"""What can still be read of a storage file that was cut off or damaged.

mcap: every record up to the first that is not whole, and of a chunk that was cut off the messages
that are. sqlite3: every row that its tree still leads to, on a copy, because opening the file
itself would already change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from io import BytesIO
import os
from pathlib import Path
import shutil
import sqlite3
import struct
from typing import Any, BinaryIO, NamedTuple

from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Schema
from mcap.stream_reader import breakup_chunk, StreamReader
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat, Qos
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.metadata import parse_qos
import zstandard

from vla_alignment_ros.data.bag_format import message_definition
from vla_alignment_ros.data.mcap_records import CHUNK, LENGTH
from vla_alignment_ros.errors import BagError

MAX_CHUNK_BYTES = 2**30  # that a chunk may claim to have when it is unpacked
GIVE_UP = 200  # rows in a row that cannot be read: more than one page of sqlite3 holds
_ZSTD = b'\x28\xb5\x2f\xfd'  # begins what is compressed, and never a CDR message
# what damaged bytes surface as, beside the libraries' own errors
_DAMAGE = (
    McapError, zstandard.ZstdError, struct.error, ValueError, LookupError, EOFError, RuntimeError,
    MemoryError, OverflowError,
)  # fmt: skip


class SavedTopic(NamedTuple):
    """A topic as the file describes it."""

    name: str
    msgtype: str
    definition: MessageDefinition
    digest: str  # RIHS01; empty where it is not known
    offered: tuple[Qos, ...]


class SavedMessage(NamedTuple):
    topic: SavedTopic
    ts_ns: int  # log time
    raw: bytes


def salvage(file: Path, scratch: Path) -> Iterator[SavedMessage]:
    """The messages of a storage file that can still be read, in its order.

    Args:
        scratch: a folder for a copy, where one is needed.

    Raises:
        BagError: it is of another kind.
        OSError: it cannot be read at all, or there is no room for the copy.
    """
    if file.suffix == '.mcap':
        return _salvage_mcap(file)
    if file.suffix == '.db3':
        return _salvage_sqlite(file, scratch)
    raise BagError(f'{file} is neither mcap nor sqlite3')


def is_compressed(file: Path) -> bool:
    """Whether the first chunk of an mcap file, or the first message of a sqlite3 file, is."""
    if file.suffix == '.mcap':
        with file.open('rb') as stream, suppress(*_DAMAGE):
            for record in StreamReader(stream, emit_chunks=True).records:
                if isinstance(record, Chunk):
                    return bool(record.compression)
        return False
    with closing(sqlite3.connect(f'{file.absolute().as_uri()}?immutable=1', uri=True)) as database:
        database.execute('PRAGMA writable_schema=ON')
        with suppress(sqlite3.DatabaseError):
            row = database.execute('SELECT data FROM messages LIMIT 1').fetchone()
            return row is not None and bytes(row[0]).startswith(_ZSTD)
    return False


# -- mcap ---------------------------------------------------------------------------------------


def _salvage_mcap(file: Path) -> Iterator[SavedMessage]:
    schemas: dict[int, Schema] = {}
    topics: dict[int, SavedTopic] = {}
    for record in _all_records(file):
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            topic = _topic(record, schemas.get(record.schema_id))
            if topic is not None:
                topics[record.id] = topic
        elif isinstance(record, Message) and record.channel_id in topics:
            yield SavedMessage(topics[record.channel_id], record.log_time, record.data)


def _all_records(file: Path) -> Iterator[Any]:
    """Records outside and inside of chunks, as far as they are whole."""
    with file.open('rb') as stream:
        whole = 0  # where the last whole record ends
        try:
            for record in StreamReader(
                stream, emit_chunks=True, record_size_limit=file.stat().st_size
            ).records:
                whole = stream.tell()
                yield from _inside(record) if isinstance(record, Chunk) else (record,)
            return
        except _DAMAGE:
            stream.seek(whole)
        yield from _inside_torn(stream)


def _inside(chunk: Chunk) -> Iterator[Any]:
    if chunk.uncompressed_size > MAX_CHUNK_BYTES:
        return
    try:
        yield from breakup_chunk(chunk, validate_crc=True)
    except _DAMAGE:  # its neighbours are none the worse for it
        return


def _inside_torn(stream: BinaryIO) -> Iterator[Any]:
    """What is whole of a chunk that the end of the file cut off."""
    head = stream.read(CHUNK.size)
    if len(head) < CHUNK.size or head[0] != Opcode.CHUNK:
        return
    *_, plain_bytes, _, name_bytes = CHUNK.unpack(head)
    if plain_bytes > MAX_CHUNK_BYTES or name_bytes > len(b'zstd'):
        return
    compression = stream.read(name_bytes)
    stream.read(LENGTH.size)
    packed = stream.read(plain_bytes + LENGTH.size)
    try:
        if compression == b'zstd':
            packed = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        elif compression:
            return
        yield from StreamReader(
            BytesIO(packed), skip_magic=True, record_size_limit=len(packed)
        ).records
    except _DAMAGE:
        return


def _topic(channel: Channel, schema: Schema | None) -> SavedTopic | None:
    if schema is None or channel.message_encoding != 'cdr':
        return None
    kind = MessageDefinitionFormat.IDL if schema.encoding == 'ros2idl' else (
        MessageDefinitionFormat.MSG
    )
    try:
        definition = MessageDefinition(kind, schema.data.decode())
    except UnicodeDecodeError:
        return None
    return SavedTopic(
        channel.topic,
        schema.name,
        definition,
        _digest(schema.name, channel.metadata.get('topic_type_hash', '')),
        _offered(channel.metadata.get('offered_qos_profiles', '')),
    )


def _digest(msgtype: str, said: str) -> str:
    try:
        return said or message_definition(msgtype)[1]
    except BagError:  # none of the standard types, and the bag does not say
        return ''


def _offered(text: str) -> tuple[Qos, ...]:
    try:
        return tuple(parse_qos(text))
    except (ReaderError, *_DAMAGE, TypeError, AttributeError):
        return ()


# -- sqlite3 ------------------------------------------------------------------------------------


def _salvage_sqlite(file: Path, scratch: Path) -> Iterator[SavedMessage]:
    copy = scratch / f'salvage{file.suffix}'
    for suffix in ('', '-journal', '-wal'):  # a transaction that was cut off is rolled back
        beside = file.with_name(file.name + suffix)
        if beside.exists():
            shutil.copyfile(beside, scratch / f'{copy.name}{suffix}')
    # what is missing of a page would read as zeros
    os.truncate(copy, copy.stat().st_size - copy.stat().st_size % sqlite_page_bytes(copy))
    with closing(sqlite3.connect(copy)) as database:
        database.execute('PRAGMA writable_schema=ON')  # lets a file be shorter than it says
        topics = _sqlite_topics(database)
        for topic, ts_ns, data in _rows(database):
            if topic in topics and isinstance(data, bytes) and isinstance(ts_ns, int):
                raw = _unpacked(data)
                if raw is not None:
                    yield SavedMessage(topics[topic], ts_ns, raw)


def sqlite_page_bytes(file: Path) -> int:
    """The size of the pages of a sqlite3 file, by its header."""
    with file.open('rb') as stream:
        found = int.from_bytes(stream.read(18)[16:], 'big')
    return 65536 if found < 2 else found  # 1 stands for it


def _sqlite_topics(database: sqlite3.Connection) -> dict[int, SavedTopic]:
    definitions = {
        row['topic_type']: (row['encoding'], row['encoded_message_definition'])
        for row in _table(database, 'message_definitions')
    }
    topics = {}
    for row in _table(database, 'topics'):
        msgtype = row['type']
        encoding, text = definitions.get(msgtype, ('', ''))
        try:
            definition = MessageDefinition(
                MessageDefinitionFormat.IDL if encoding == 'ros2idl' else
                MessageDefinitionFormat.MSG, text,
            ) if text else message_definition(msgtype)[0]  # fmt: skip
        except BagError:  # from before bags held definitions, and not of a standard type
            continue
        if row['serialization_format'] == 'cdr':
            topics[row['id']] = SavedTopic(
                row['name'],
                msgtype,
                definition,
                _digest(msgtype, row.get('type_description_hash') or ''),
                _offered(row.get('offered_qos_profiles') or ''),
            )
    return topics


def _table(database: sqlite3.Connection, name: str) -> list[dict[str, Any]]:
    try:
        cursor = database.execute(f'SELECT * FROM {name}')  # one of two names of ours
        columns = [column[0] for column in cursor.description]
        return [dict(zip(columns, row)) for row in cursor]
    except sqlite3.DatabaseError:
        return []


def _rows(database: sqlite3.Connection) -> Iterator[tuple[Any, Any, Any]]:
    """(topic id, time, data) by row id; where the scan meets damage, one row after the other."""
    columns, newest = 'topic_id, timestamp, data', 0
    try:
        for number, *row in database.execute(f'SELECT id, {columns} FROM messages ORDER BY id'):
            newest = max(newest, number)  # a page that is half there reads as row 0
            yield tuple(row)
        return
    except sqlite3.DatabaseError:
        pass
    missed = 0
    while missed < GIVE_UP:
        newest += 1
        try:
            query = f'SELECT {columns} FROM messages WHERE id = ?'
            row = database.execute(query, (newest,)).fetchone()
        except sqlite3.DatabaseError:
            row = None
        missed = 0 if row is not None else missed + 1
        if row is not None:
            yield row


def _unpacked(data: bytes) -> bytes | None:
    if not data.startswith(_ZSTD):
        return data
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_CHUNK_BYTES)
    except _DAMAGE:
        return None
