from collections import Counter
import json
import os
import random
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
import pytest
from rosbags.interfaces import QosDurability, QosHistory, QosReliability
from rosbags.rosbag2 import Reader
import yaml

from vla_alignment_ros import wire
from vla_alignment_ros.data import bag_storage, bag_writer
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter, find_episodes, OfferedQos
from vla_alignment_ros.data.bag_format import sanitize_name
from vla_alignment_ros.data.bag_writer import CHUNK_BYTES, UNSAVED_BYTES, UNSAVED_S
from vla_alignment_ros.errors import BagError

STRING = 'std_msgs/msg/String'


def texts(count):
    return [wire.encode_string(f'message {i} ' + 'x' * i) for i in range(count)]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compression', [None, 'zstd'])
def test_what_is_written_is_read_back_in_every_storage(tmp_path, embodiment, storage, compression):
    written = []
    with EpisodeWriter(tmp_path, embodiment, storage=storage, compression=compression) as writer:
        writer.set_instruction('pick up the red cube')
        for i, raw in enumerate(texts(50)):
            topic = 'instruction' if i % 2 else 'notes/other'
            writer.write(topic, STRING, 1000 + i, raw)
            written.append((topic, STRING, 1000 + i, raw))
        path = writer.finish(True, {'seed': '7', 'vla.task': 'pick'})
    reader = EpisodeReader(path)
    assert list(reader.messages()) == written
    assert list(reader.messages(['instruction'])) == [m for m in written if m[0] == 'instruction']
    assert list(reader.messages(['absent'])) == []
    info = reader.info
    assert (info.instruction, info.success) == ('pick up the red cube', True)
    assert info.embodiment == embodiment
    assert info.message_counts == {'instruction': 25, 'notes/other': 25}
    assert info.extra == {'seed': '7', 'task': 'pick'}
    assert info.duration_s == pytest.approx(49e-9)


@pytest.mark.parametrize('success', [True, False, None])
def test_verdict_survives(tmp_path, embodiment, success):
    with EpisodeWriter(tmp_path, embodiment) as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        path = writer.finish(success)
    assert EpisodeReader(path).info.success is success


def test_a_plain_ros_reader_sees_absolute_topics_and_offered_qos(tmp_path, embodiment):
    offered = {'a': [OfferedQos(depth=3)]}.get
    with EpisodeWriter(tmp_path, embodiment, offered=offered) as writer:
        for topic in ('instruction', 'front/image_raw', 'a'):
            writer.write(topic, STRING, 1, texts(1)[0])
        path = writer.finish(True)
    with Reader(path) as reader:
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    assert set(qos) == {'/instruction', '/front/image_raw', '/a'}
    assert qos['/instruction'].durability == QosDurability.TRANSIENT_LOCAL
    assert qos['/front/image_raw'].reliability == QosReliability.BEST_EFFORT
    assert (qos['/a'].depth, qos['/a'].durability) == (3, QosDurability.VOLATILE)
    document = yaml.safe_load((path / 'metadata.yaml').read_text())
    assert set(document['rosbag2_bagfile_information']['custom_data']) == {
        'vla.embodiment',
        'vla.instruction',
        'vla.success',
        'vla.format_version',
    }


@pytest.mark.parametrize('compression', [None, 'zstd'])
def test_an_independent_reader_finds_every_message_and_understands_it(recorder, compression):
    path, observations, _ = recorder.record(ticks=40, compression=compression)
    written = [(topic, ts_ns, raw) for topic, _, ts_ns, raw in EpisodeReader(path).messages()]
    (file,) = path.glob('*.mcap')
    with file.open('rb') as stream:
        raw = [
            (channel.topic.lstrip('/'), message.log_time, message.data)
            for _, channel, message in make_reader(stream, validate_crcs=True).iter_messages()
        ]
        assert Counter(raw) == Counter(written) and len(raw) == 1 + 40 * 5
        stream.seek(0)
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        decoded = {topic: [] for topic in recorder.types}
        for _, channel, _, message in reader.iter_decoded_messages():
            decoded[channel.topic.lstrip('/')].append(message)
    front, joints = decoded['front/image_raw'], decoded['joint_states']
    for ours, image, sample in zip(observations, front, joints, strict=True):
        expected = wire.decode_image(ours['front/image_raw'])
        assert bytes(image.data) == expected.image.tobytes()
        assert image.header.stamp.sec * 10**9 + image.header.stamp.nanosec == expected.ts_ns
        assert tuple(sample.name) == wire.decode_joint_state(ours['joint_states']).names


def test_metadata_names_the_hash_of_every_type(recorder):
    path, _, _ = recorder.record(ticks=1)
    document = yaml.safe_load((path / 'metadata.yaml').read_text())
    topics = document['rosbag2_bagfile_information']['topics_with_message_count']
    hashes = {t['topic_metadata']['type']: t['topic_metadata'] for t in topics}
    # as DDS discovery names it
    assert hashes[STRING]['type_description_hash'] == (
        'RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18'
    )
    assert all(t['type_description_hash'].startswith('RIHS01_') for t in hashes.values())


def test_a_depth_that_discovery_does_not_tell_is_not_made_up(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment, offered=lambda topic: [OfferedQos(depth=0)]) as w:
        w.write('a', STRING, 1, texts(1)[0])
        path = w.finish(True)
    with Reader(path) as reader:
        (qos,) = reader.connections[0].ext.offered_qos_profiles
    assert (qos.history, qos.depth) == (QosHistory.UNKNOWN, 0)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_little_is_in_the_memory_of_the_process_alone(tmp_path, embodiment, storage):
    raws = texts(2_000)
    given = 0
    with EpisodeWriter(tmp_path, embodiment, 'one', storage) as writer:
        for ts_ns, raw in enumerate(raws):
            writer.write('a', STRING, ts_ns, raw)
            given += len(raw)
            saved = writer.saved_counts()['a']
            assert given - sum(map(len, raws[:saved])) < UNSAVED_BYTES
        assert saved > 1_000
        writer.write('big', STRING, 1, bytes(4 * UNSAVED_BYTES))
        assert writer.saved_counts() == {'a': 2_000, 'big': 1}


def test_what_waits_goes_into_the_chunk_of_an_image_that_leaves_it_small(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment) as writer:
        for size in (900_000, UNSAVED_BYTES - 1_000, CHUNK_BYTES - 100):
            writer.write('a', STRING, 1, texts(1)[0])
            writer.write('big', STRING, 1, bytes(size))
        path = writer.finish(True)
    with open(next(path.glob('*.mcap')), 'rb') as file:
        chunks = make_reader(file).get_summary().chunk_indexes
    held = [sorted(chunk.message_index_offsets) for chunk in chunks]
    # the second image is too small to close a chunk, the last too large to join one
    assert held == [[1, 2], [1, 2], [2]]
    assert all(chunk.uncompressed_size < CHUNK_BYTES + 1_000 for chunk in chunks)


def test_a_system_that_takes_less_than_it_is_given_gets_the_rest(
    tmp_path, embodiment, monkeypatch
):
    def some(descriptor, pieces):
        return os.write(descriptor, b''.join(pieces)[:70])

    monkeypatch.setattr(bag_storage, 'os', SimpleNamespace(writev=some))
    raws = texts(40)
    with EpisodeWriter(tmp_path, embodiment) as writer:
        for ts_ns, raw in enumerate(raws):
            writer.write('a', STRING, ts_ns, raw)
        path = writer.finish(True)
    assert [raw for *_, raw in EpisodeReader(path).messages()] == raws


def test_what_waits_is_saved_after_a_moment(tmp_path, embodiment, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bag_writer, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    with EpisodeWriter(tmp_path, embodiment, 'one') as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        writer.flush_if_late()
        assert writer.saved_counts() == {'a': 0}
        now[0] += UNSAVED_S
        writer.flush_if_late()
        assert writer.saved_counts() == {'a': 1}


def test_leaving_without_finish_leaves_nothing(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment) as writer:
        writer.write('a', STRING, 1, texts(1)[0])
    assert os.listdir(tmp_path) == []
    with pytest.raises(BagError), EpisodeWriter(tmp_path, embodiment) as writer:
        writer.write('a', STRING, -1, texts(1)[0])
    assert os.listdir(tmp_path) == []


def test_discard_does_not_undo_finish(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment) as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        path = writer.finish(None)
        writer.discard()
    assert find_episodes(tmp_path) == [path]
    with pytest.raises(BagError, match='finished or discarded'):
        writer.write('a', STRING, 2, texts(1)[0])


def test_nothing_is_visible_before_finish(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment, 'one') as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        assert find_episodes(tmp_path) == []
        assert not writer.path.exists()
        assert writer.finish(True) == writer.path == tmp_path / 'one'
    assert os.listdir(tmp_path) == ['one']


CRASH = """
import sys
from vla_alignment_ros.data.bag import EpisodeWriter
from vla_alignment_ros.embodiment import Embodiment
import json
writer = EpisodeWriter(sys.argv[1], Embodiment.from_dict(json.loads(sys.argv[2])), 'crashed',
                       storage=sys.argv[3])
for i in range(10 ** 9):
    writer.write('a', 'std_msgs/msg/String', i, bytes(100_000))
    if i == 30:
        print('recording', flush=True)
"""


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_killed_recorder_leaves_only_a_partial_folder(tmp_path, embodiment, storage):
    arguments = [str(tmp_path), json.dumps(embodiment.to_dict()), storage]
    process = subprocess.Popen([sys.executable, '-c', CRASH, *arguments], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b'recording\n'
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert os.listdir(tmp_path) == ['.crashed.partial']
    assert find_episodes(tmp_path) == []
    with pytest.raises(BagError, match='crashed'):
        EpisodeWriter(tmp_path, embodiment, 'crashed')


def test_an_episode_is_never_overwritten(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment, 'one') as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        writer.finish(True)
    with pytest.raises(BagError, match='not overwritten'):
        EpisodeWriter(tmp_path, embodiment, 'one')
    # taken while it was being recorded
    with EpisodeWriter(tmp_path, embodiment, 'two') as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        (tmp_path / 'two').mkdir()
        with pytest.raises(BagError, match='not overwritten'):
            writer.finish(True)
    assert sorted(os.listdir(tmp_path)) == ['one', 'two']


def test_generated_names_count_on_and_never_collide(tmp_path, embodiment):
    writers = [EpisodeWriter(tmp_path, embodiment) for _ in range(3)]
    assert [w.path.name[:15] for w in writers] == [f'episode_{i:06d}_'[:15] for i in range(3)]
    for writer in writers:
        writer.discard()


@pytest.mark.parametrize(
    'name, safe',
    [
        ('pick red', 'pick_red'),
        ('../../etc/passwd', 'etc_passwd'),
        ('.hidden', 'hidden'),
        ('a.partial', 'a'),
        ('…', ''),
        ('-rf', 'rf'),
        ('x' * 300, 'x' * 100),
    ],
)
def test_names_are_made_safe(name, safe):
    assert sanitize_name(name) == safe


@pytest.mark.parametrize(
    'arguments, match',
    [
        (('a', STRING, -1, b''), 'out of range'),
        (('b', 'made_up/msg/Thing', 1, b''), 'not a standard one'),
        (('a', 'std_msgs/msg/Bool', 1, b''), 'carries std_msgs/msg/String'),
    ],
)
def test_a_message_that_cannot_be_recorded_is_named(tmp_path, embodiment, arguments, match):
    with EpisodeWriter(tmp_path, embodiment) as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        with pytest.raises(BagError, match=match):
            writer.write(*arguments)


def test_an_episode_without_messages_is_refused(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment) as writer:
        with pytest.raises(BagError, match='no message'):
            writer.finish(True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('extra', [{'embodiment': 'x'}, {'vla.success': 'true'}, {'seed': 3}])
def test_extra_must_not_replace_what_the_bag_says_itself(tmp_path, embodiment, extra):
    with EpisodeWriter(tmp_path, embodiment) as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        with pytest.raises(BagError, match='extra'):
            writer.finish(True, extra)


def test_threads_may_write_to_one_episode(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment) as writer:

        def work(topic):
            for i, raw in enumerate(texts(200)):
                writer.write(topic, STRING, i, raw)

        threads = [threading.Thread(target=work, args=(topic,)) for topic in 'abc']
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        path = writer.finish(True)
    messages = list(EpisodeReader(path).messages())
    for topic in 'abc':
        assert [m[3] for m in messages if m[0] == topic] == texts(200)


def test_episodes_are_found_in_depth_but_not_in_hidden_folders(tmp_path, embodiment):
    expected = []
    for folder in ('b', 'a/deep', '.hidden', 'x.partial'):
        with EpisodeWriter(tmp_path / folder, embodiment, 'one') as writer:
            writer.write('a', STRING, 1, texts(1)[0])
            path = writer.finish(True)
            if folder in ('b', 'a/deep'):
                expected.append(path)
    assert find_episodes(tmp_path) == sorted(expected)
    assert find_episodes(expected[0]) == [expected[0]]
    with pytest.raises(BagError, match='no folder'):
        find_episodes(tmp_path / 'absent')


def test_episodes_of_a_list_are_found_in_its_order_and_one_that_is_gone_is_named(
    tmp_path, embodiment
):
    found = []
    for name in ('one', 'two', 'three'):
        with EpisodeWriter(tmp_path / name, embodiment, 'one') as writer:
            writer.write('a', STRING, 1, texts(1)[0])
            found.append(writer.finish(True))
    file = tmp_path / 'list.txt'
    file.write_text(f'{found[1].relative_to(tmp_path)}\n\n{found[0]}\n')
    assert find_episodes(file) == [found[1], found[0]]
    file.write_text(f'{found[0]}\nfour\n')
    with pytest.raises(BagError, match='lists .*four, which is no episode'):
        find_episodes(file)
    file.write_bytes(b'\xff\xfe')
    with pytest.raises(BagError, match='is no list of episodes'):
        find_episodes(file)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compression', [None, 'zstd'])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_bag_is_named_and_never_half_read(
    tmp_path, embodiment, storage, compression, share
):
    with EpisodeWriter(
        tmp_path, embodiment, 'cut', storage=storage, compression=compression
    ) as writer:
        for i in range(40):
            noise = random.Random(i).randbytes(20_000).hex()
            writer.write('a', STRING, i, wire.encode_string(noise))
        path = writer.finish(True)
    file = next(p for p in path.iterdir() if p.suffix in ('.mcap', '.db3'))
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(BagError, match='cut'):
        list(EpisodeReader(path).messages())


def test_lost_messages_are_noticed(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment) as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        path = writer.finish(True)
    file = path / 'metadata.yaml'
    file.write_text(file.read_text().replace('message_count: 1', 'message_count: 2'))
    with pytest.raises(BagError, match='1 of 2 messages'):
        list(EpisodeReader(path).messages())


@pytest.mark.parametrize(
    'text', ['', '[]', 'rosbag2_bagfile_information: {}', '{', 'a: b', '\x00', 'x: !!python/none']
)
def test_broken_metadata_is_a_bag_error(tmp_path, text):
    (tmp_path / 'metadata.yaml').write_text(text)
    with pytest.raises(BagError, match='metadata'):
        EpisodeReader(tmp_path)


def test_a_folder_that_is_no_bag_is_a_bag_error(tmp_path):
    with pytest.raises(BagError, match='not a bag'):
        EpisodeReader(tmp_path)


def test_a_newer_format_is_refused(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment) as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        path = writer.finish(True)
    file = path / 'metadata.yaml'
    file.write_text(file.read_text().replace("format_version: '1'", "format_version: '99'"))
    with pytest.raises(BagError, match='format 99'):
        EpisodeReader(path)


@pytest.mark.parametrize('options', [{'storage': 'tape'}, {'compression': 'lz77'}])
def test_unknown_storage_is_refused_with_the_known_ones(tmp_path, embodiment, options):
    with pytest.raises(BagError, match='allowed'):
        EpisodeWriter(tmp_path, embodiment, **options)


def test_an_unwritable_folder_is_a_bag_error(tmp_path, embodiment):
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='cannot record'):
        EpisodeWriter(tmp_path / 'file', embodiment)


def test_a_full_disk_is_a_bag_error_and_leaves_nothing(tmp_path, embodiment, monkeypatch):
    with EpisodeWriter(tmp_path, embodiment) as writer:

        def full(*_):
            raise OSError(28, 'No space left on device')

        monkeypatch.setattr(writer._bag, 'write', full)
        with pytest.raises(BagError, match='No space left'):
            writer.write('a', STRING, 1, texts(1)[0])
    assert os.listdir(tmp_path) == []
