"""Messages read in part, or only some of them, against the same messages read whole."""

import os
import struct

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter
from vla_alignment_ros.data.bag_reader import HEAD_BYTES
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError

IMAGE, STRING = 'sensor_msgs/msg/Image', 'std_msgs/msg/String'
TYPES = {'front/image_raw': IMAGE, 'notes': STRING, 'instruction': STRING}
COUNT = 60


def record(root, embodiment, **options):
    """Three topics, sizes up to more than is read in one go, times that tie and go back."""
    with EpisodeWriter(root, embodiment, 'parts', **options) as writer:
        for i in range(COUNT):
            topic = list(TYPES)[i % 3]
            raw = wire.encode_string(f'{i} ' + 'x' * (i * 397 % 6000))
            if TYPES[topic] == IMAGE:
                raw = wire.encode_image(np.full((40, 50, 3), i, np.uint8), 1_000 + i, 'front')
            writer.write(topic, TYPES[topic], 10_000 + (i // 4) * 10 - 3 * (i % 7), raw)
            if i % 5 == 4:
                writer._bag.flush()  # a chunk ends here
        return writer.finish(True)


def with_checksums(root, embodiment):
    """The same in a file of another recorder, whose chunks have checksums."""
    path = record(root, embodiment)
    (file,) = path.glob('*.mcap')
    with file.open('rb') as stream:
        found = list(make_reader(stream).iter_messages(log_time_order=False))
    with file.open('wb') as stream:
        writer = McapWriter(stream, chunk_size=9000, compression=CompressionType.NONE)
        writer.start('ros2')
        ids = {}
        for schema, channel, message in found:
            if channel.topic not in ids:
                kind = writer.register_schema(schema.name, schema.encoding, schema.data)
                ids[channel.topic] = writer.register_channel(
                    channel.topic, 'cdr', kind, channel.metadata
                )
            time_ns = message.log_time
            writer.add_message(ids[channel.topic], time_ns, message.data, time_ns)
        writer.finish()
    return path


BAGS = {
    'plain': record,
    'zstd': lambda root, embodiment: record(root, embodiment, compression='zstd'),
    'sqlite3': lambda root, embodiment: record(root, embodiment, storage='sqlite3'),
    'split': lambda root, embodiment: record(root, embodiment, split_bytes=50_000),
    'checksums': with_checksums,
}


@pytest.fixture(scope='module', params=BAGS)
def reader(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    return EpisodeReader(BAGS[request.param](root, Embodiment.load('tabletop')))


@pytest.fixture
def plain(tmp_path, embodiment):
    """An episode that can be read place by place, and its file."""
    path = record(tmp_path, embodiment)
    (file,) = path.glob('*.mcap')
    return EpisodeReader(path), file


@pytest.fixture
def read_bytes(monkeypatch):
    """How much is read place by place, in a list of one."""
    total, pread = [0], os.pread

    def counting(descriptor, size, offset):
        total[0] += size
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, 'pread', counting)
    return total


def test_heads_are_the_messages_but_for_the_pixels(reader):
    whole = list(reader.messages(TYPES))
    assert len(whole) == COUNT
    heads = list(reader.heads(TYPES))
    assert [message[:3] for message in heads] == [message[:3] for message in whole]
    for (topic, msgtype, _, raw), (*_, head) in zip(whole, heads, strict=True):
        assert raw.startswith(bytes(head)) and len(head) >= min(len(raw), HEAD_BYTES), topic
        assert wire.stamp_ns(head, msgtype) == wire.stamp_ns(raw, msgtype)
        assert msgtype == IMAGE or head == raw


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_some_are_those_that_were_asked_for_in_their_order(reader, data):
    topics = data.draw(st.sets(st.sampled_from(list(TYPES)), min_size=1))
    numbers = {topic: data.draw(st.sets(st.integers(0, COUNT))) for topic in topics}
    expected, seen = [], dict.fromkeys(TYPES, 0)
    for topic, _, _, raw in reader.messages():
        if seen[topic] in numbers.get(topic, ()):
            expected.append((topic, seen[topic], raw))
        seen[topic] += 1
    assert list(reader.some(numbers)) == expected


def test_what_nobody_wants_stays_in_the_file(plain, read_bytes):
    reader, file = plain
    list(reader.heads(['front/image_raw']))
    assert 0 < read_bytes[0] < file.stat().st_size / 10
    read_bytes[0] = 0
    list(reader.some({'front/image_raw': {3}}))
    image_bytes = 40 * 50 * 3
    assert image_bytes < read_bytes[0] < image_bytes + file.stat().st_size / 10


def test_a_checksum_is_asked_before_a_message_is_believed(tmp_path, embodiment):
    path = with_checksums(tmp_path, embodiment)
    (file,) = path.glob('*.mcap')
    patch(file, b'58 xxx', b'59 xxx')
    with pytest.raises(BagError, match='[Cc]hecksum'):
        list(EpisodeReader(path).heads(['notes']))


def patch(file, old, new):
    """Replace the only place with these bytes by others."""
    data = file.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    file.write_bytes(data.replace(old, new))


def first_entry(file):
    """Time and place in its chunk of the message that the first index names."""
    with file.open('rb') as stream:
        chunk = make_reader(stream).get_summary().chunk_indexes[0]
        stream.seek(chunk.chunk_start_offset + chunk.chunk_length + 15)
        return stream.read(16)


@pytest.mark.parametrize(
    'shift_ns, shift, reason',
    [
        (1, 0, 'index is wrong'),
        (0, 1, 'index is wrong'),
        (0, 2**40, 'out of its chunk'),
        (0, 2**63, 'out of its chunk'),
    ],
)
def test_an_index_that_lies_is_noticed(plain, shift_ns, shift, reason):
    reader, file = plain
    entry = first_entry(file)
    time_ns, offset = struct.unpack('<QQ', entry)
    patch(file, entry, struct.pack('<QQ', time_ns + shift_ns, offset + shift))
    with pytest.raises(BagError, match=reason):
        list(reader.heads(TYPES))


def test_an_index_of_another_length_is_noticed(plain):
    reader, file = plain
    with file.open('r+b') as stream:
        chunk = make_reader(stream).get_summary().chunk_indexes[2]
        stream.seek(chunk.chunk_start_offset + chunk.chunk_length + 1)
        stream.write(struct.pack('<Q', 2**40))
    with pytest.raises(BagError, match='is damaged'):
        list(reader.heads(TYPES))


def test_a_message_that_claims_to_be_longer_than_its_chunk_is_noticed(plain):
    reader, file = plain
    offset = struct.unpack('<QQ', first_entry(file))[1]
    with file.open('r+b') as stream:
        chunk = make_reader(stream).get_summary().chunk_indexes[0]
        stream.seek(chunk.chunk_start_offset + 49 + offset + 1)
        stream.write(struct.pack('<Q', 2**40))
    with pytest.raises(BagError, match='longer than its chunk'):
        list(reader.some({topic: range(COUNT) for topic in TYPES}))


def test_messages_that_the_metadata_promises_are_missed(plain):
    reader, _ = plain
    reader.info.message_counts['notes'] += 1
    with pytest.raises(BagError, match='20 of 21 messages'):
        list(reader.some({'notes': {0}}))
