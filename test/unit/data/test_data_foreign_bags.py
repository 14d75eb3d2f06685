"""Bags of other recorders: every layout of `ros2 bag record` loads, or is refused with the reason.

They are written with rosbags directly, or byte by byte where it has no option for it.
"""

import struct

import numpy as np
import pytest
from recordings import make_embodiment, Recorder
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
import yaml

from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.data.episode import read_episode
from vla_alignment_ros.embodiment import Camera, CommandSpec
from vla_alignment_ros.errors import BagError, DatasetError

STORE = get_typestore(Stores.ROS2_HUMBLE)
MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3
NONE, BY_CHUNK = CompressionMode.NONE, CompressionMode.STORAGE
BY_MESSAGE, BY_FILE = CompressionMode.MESSAGE, CompressionMode.FILE
FOREVER = QosTime(2147483647, 4294967295)
OTHER_QOS = Qos(
    QosHistory.KEEP_ALL, 0, QosReliability.BEST_EFFORT, QosDurability.TRANSIENT_LOCAL,
    FOREVER, FOREVER, QosLiveliness.MANUAL_BY_TOPIC, FOREVER, True,
)  # fmt: skip


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """An episode of ours, its messages and what it is read as."""
    recorder = Recorder(tmp_path_factory.mktemp('original'), make_embodiment())
    path, _, _ = recorder.record(ticks=7)
    return list(EpisodeReader(path).messages()), read_episode(path)


def write_bag(
    root, messages, storage=MCAP, mode=NONE, version=9, spell='/{}'.format, qos=(), name='bag'
):
    writer = Writer(root / name, version=version, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    connections = {}
    with writer:
        for topic, msgtype, ts_ns, raw in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(
                    spell(topic), msgtype, typestore=STORE, offered_qos_profiles=qos
                )
            writer.write(connections[topic], ts_ns, raw)
    return root / name


def change_metadata(bag, change):
    path = bag / 'metadata.yaml'
    data = yaml.safe_load(path.read_text())
    change(data['rosbag2_bagfile_information'])
    path.write_text(yaml.safe_dump(data))


def assert_as_original(original, episode):
    _, was = original
    assert (episode.index.ticks_ns == was.index.ticks_ns).all()
    assert episode.index.actions.tobytes() == was.index.actions.tobytes()
    assert (episode.state == was.state).all()
    assert episode.instructions == was.instructions
    for name, images in was.images.items():
        assert (episode.images[name] == images).all()


# -- what loads ---------------------------------------------------------------------------------


@pytest.mark.parametrize('version', [8, 9])
@pytest.mark.parametrize(
    'storage, mode',
    [
        (MCAP, NONE), (MCAP, BY_CHUNK), (MCAP, BY_MESSAGE), (MCAP, BY_FILE),
        (SQLITE, NONE), (SQLITE, BY_MESSAGE), (SQLITE, BY_FILE),
    ],
)  # fmt: skip
def test_every_storage_and_compression_loads(tmp_path, original, storage, mode, version):
    bag = write_bag(tmp_path, original[0], storage, mode, version, qos=[OTHER_QOS])
    robot = make_embodiment()
    assert EpisodeReader(bag).info.embodiment is None
    assert EpisodeReader(bag).info.success is None
    assert_as_original(original, read_episode(bag, robot))
    data = load_dataset([tmp_path], embodiment=robot, val_fraction=0.0, progress=False)
    assert len(data.train) == 7


@pytest.mark.parametrize('in_bag', ['/{}', '{}'])
@pytest.mark.parametrize('in_embodiment', ['/{}', '{}'])
def test_a_leading_slash_is_no_difference(tmp_path, original, in_bag, in_embodiment):
    bag = write_bag(tmp_path, original[0], spell=in_bag.format)
    spell = in_embodiment.format
    robot = make_embodiment(
        cameras=(
            Camera('front', spell('front/image_raw'), 16, 12),
            Camera('wrist', spell('wrist'), 8, 8),
        ),
        command=CommandSpec('twist', {
            'twist': spell('cmd/twist'), 'gripper': spell('cmd/gripper'),
        }),
        instruction_topic=spell('instruction'),
        joint_states_topic=spell('joint_states'),
    )  # fmt: skip
    assert_as_original(original, read_episode(bag, robot))
    data = load_dataset([bag], embodiment=robot, val_fraction=0.0, progress=False)
    assert len(data.train) == 7


@pytest.mark.parametrize('storage, suffix', [(MCAP, 'mcap'), (SQLITE, 'db3')])
@pytest.mark.parametrize('mode', [NONE, BY_MESSAGE, BY_FILE])
def test_a_bag_that_was_split_is_one_episode(tmp_path, original, storage, suffix, mode):
    """As `ros2 bag record --max-bag-duration`: bag_0, bag_1, … and one metadata.yaml."""
    messages = original[0]
    cuts = [messages[:11], messages[11:12], messages[12:]]
    parts = [
        write_bag(tmp_path / 'parts', part, storage, mode, name=f'bag_{i}')
        for i, part in enumerate(cuts)
    ]
    bag = tmp_path / 'bags' / 'bag'
    bag.mkdir(parents=True)
    documents = [
        yaml.safe_load((part / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
        for part in parts
    ]
    whole = documents[0]
    counts = {t['topic_metadata']['name']: t for t in whole['topics_with_message_count']}
    for document in documents[1:]:
        whole['relative_file_paths'] += document['relative_file_paths']
        whole['files'] += document['files']
        whole['message_count'] += document['message_count']
        for topic in document['topics_with_message_count']:
            new = {**topic, 'message_count': 0}
            known = counts.setdefault(topic['topic_metadata']['name'], new)
            known['message_count'] += topic['message_count']
    whole['topics_with_message_count'] = list(counts.values())
    stamps = [ts_ns for _, _, ts_ns, _ in messages]
    whole['duration']['nanoseconds'] = max(stamps) - min(stamps)
    for part in parts:
        for file in part.glob(f'*.{suffix}*'):
            file.rename(bag / file.name)
    (bag / 'metadata.yaml').write_text(yaml.safe_dump({'rosbag2_bagfile_information': whole}))
    assert len(whole['relative_file_paths']) == 3
    assert_as_original(original, read_episode(bag, make_embodiment()))


def test_metadata_of_older_distributions_loads(tmp_path, original):
    """Version 4: no custom data, no hashes, no list of files, paths with the folder in them."""
    bag = write_bag(tmp_path, original[0], SQLITE, version=8, qos=[OTHER_QOS])

    def older(data):
        data['version'] = 4
        for key in ('custom_data', 'files', 'ros_distro'):
            del data[key]
        data['relative_file_paths'] = [f'bag/{name}' for name in data['relative_file_paths']]
        for topic in data['topics_with_message_count']:
            del topic['topic_metadata']['type_description_hash']

    change_metadata(bag, older)
    assert_as_original(original, read_episode(bag, make_embodiment()))


def test_what_else_was_recorded_is_passed_over(tmp_path, original):
    """Other topics, of types that nobody here knows, and a topic that never spoke."""
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=MCAP)
    with writer:
        known = {}
        other = writer.add_connection('/tf', 'their_msgs/msg/Thing', msgdef='int8 x', rihs01='?')
        writer.add_connection('/silent', 'std_msgs/msg/Bool', typestore=STORE)
        for topic, msgtype, ts_ns, raw in original[0]:
            if topic not in known:
                known[topic] = writer.add_connection(f'/{topic}', msgtype, typestore=STORE)
            writer.write(known[topic], ts_ns, raw)
            writer.write(other, ts_ns, b'\x00\x01\x00\x00\x07')
    assert_as_original(original, read_episode(tmp_path / 'bag', make_embodiment()))


def test_a_recorder_that_stamps_the_log_with_its_own_clock_gives_the_same_samples(
    tmp_path, original
):
    """Simulated time in the headers, wall time in the log, a little later for each message."""
    wall = 1_790_000_000_000_000_000
    late = [
        (topic, msgtype, wall + ts_ns + 50_000 * i, raw)
        for i, (topic, msgtype, ts_ns, raw) in enumerate(original[0])
    ]
    bag = write_bag(tmp_path, late)
    assert_as_original(original, read_episode(bag, make_embodiment()))


def unchunked_mcap(path, messages, summary):
    """MCAP as the writer profile `fastwrite` makes it: messages without chunks."""

    def text(value):
        data = value.encode()
        return struct.pack('<I', len(data)) + data

    def record(op, body):
        return struct.pack('<BQ', op, len(body)) + body

    definitions, ids, counts = b'', {}, {}
    body = record(1, text('ros2') + text('libmcap'))
    for topic, msgtype, ts_ns, raw in messages:
        if topic not in ids:
            ids[topic] = number = len(ids) + 1
            definition = STORE.generate_msgdef(msgtype, ros_version=2)[0]
            schema = struct.pack('<H', number) + text(msgtype) + text('ros2msg') + text(definition)
            channel = struct.pack('<HH', number, number) + text(f'/{topic}') + text('cdr')
            qos = text('offered_qos_profiles') + text('')
            added = record(3, schema) + record(4, channel + struct.pack('<I', len(qos)) + qos)
            definitions += added
            body += added
        counts[ids[topic]] = counts.get(ids[topic], 0) + 1
        body += record(5, struct.pack('<HIQQ', ids[topic], 0, ts_ns, ts_ns) + bytes(raw))
    body += record(15, struct.pack('<I', 0))
    magic = b'\x89MCAP0\r\n'
    start = len(magic) + len(body) if summary else 0
    if summary:
        stamps = [ts_ns for _, _, ts_ns, _ in messages]
        per_channel = b''.join(struct.pack('<HQ', *item) for item in counts.items())
        body += definitions + record(11, struct.pack(
            '<QHIIIIQQI', len(messages), len(ids), len(ids), 0, 0, 0, min(stamps), max(stamps),
            len(per_channel),
        ) + per_channel)  # fmt: skip
    path.write_bytes(magic + body + record(2, struct.pack('<QQI', start, 0, 0)) + magic)


@pytest.mark.parametrize('summary', [True, False])
def test_mcap_without_chunks_loads(tmp_path, original, summary):
    bag = write_bag(tmp_path, original[0])
    (file,) = bag.glob('*.mcap')
    unchunked_mcap(file, original[0], summary)
    assert_as_original(original, read_episode(bag, make_embodiment()))


def test_a_robot_that_is_described_anew_reads_bags_of_ours_too(tmp_path, recorder):
    path, _, _ = recorder.record()
    robot = make_embodiment(joint_states_topic='/joint_states')
    data = load_dataset([path], embodiment=robot, val_fraction=0.0, progress=False)
    assert len(data.train) == 6


# -- what is refused, and why -------------------------------------------------------------------


def test_a_bag_that_names_no_robot_needs_one(tmp_path, original):
    bag = write_bag(tmp_path, original[0])
    with pytest.raises(DatasetError, match='names no embodiment; give the one'):
        read_episode(bag)
    with pytest.raises(DatasetError, match='names no embodiment; give the one'):
        load_dataset([tmp_path], progress=False)


@pytest.mark.parametrize('topic', ['wrist', 'joint_states', 'cmd/twist', 'cmd/gripper'])
def test_a_missing_topic_is_named_with_those_there_are(tmp_path, original, topic):
    bag = write_bag(tmp_path, [m for m in original[0] if m[0] != topic])
    with pytest.raises(DatasetError, match=f"no message on topic '{topic}'.* were .*front"):
        read_episode(bag, make_embodiment())


def test_a_bag_in_which_nothing_was_said_is_refused(tmp_path, original):
    bag = write_bag(tmp_path, [m for m in original[0] if m[0] != 'instruction'])
    with pytest.raises(DatasetError, match="no message on topic 'instruction'"):
        read_episode(bag, make_embodiment())


def test_another_type_on_a_topic_is_named(tmp_path, original):
    messages = [
        (t, 'geometry_msgs/msg/Twist' if t == 'cmd/twist' else kind, ts, raw)
        for t, kind, ts, raw in original[0]
    ]
    bag = write_bag(tmp_path, messages)
    with pytest.raises(DatasetError, match="'cmd/twist' carries geometry_msgs/msg/Twist, .* says"):
        read_episode(bag, make_embodiment())


@pytest.mark.parametrize(
    'change, reason',
    [
        (lambda d: d.update(version=99), 'version 99'),
        (lambda d: d.update(storage_identifier='rocksdb'), 'rocksdb'),
        (lambda d: d.update(compression_format='lz4'), 'lz4'),
        (lambda d: d['topics_with_message_count'][0]['topic_metadata'].update(
            serialization_format='protobuf'), 'protobuf'),
    ],
)  # fmt: skip
def test_what_the_reader_does_not_know_is_refused_by_name(tmp_path, original, change, reason):
    bag = write_bag(tmp_path, original[0], SQLITE, BY_MESSAGE)
    change_metadata(bag, change)
    with pytest.raises(DatasetError, match=reason):
        read_episode(bag, make_embodiment())


@pytest.mark.parametrize('storage, mode', [(MCAP, BY_FILE), (SQLITE, BY_FILE), (MCAP, NONE)])
def test_a_part_that_is_missing_or_cut_is_named(tmp_path, original, storage, mode):
    bag = write_bag(tmp_path, original[0], storage, mode)
    (file,) = (f for f in bag.iterdir() if f.name != 'metadata.yaml')
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BagError, match='bag cannot be read, it is damaged'):
        list(EpisodeReader(bag).messages())
    file.unlink()
    with pytest.raises(BagError, match=file.name):
        list(EpisodeReader(bag).messages())


def test_a_bag_of_ros_1_is_no_episode(tmp_path):
    (tmp_path / 'old.bag').write_bytes(b'#ROSBAG V2.0\n' + np.zeros(64, np.uint8).tobytes())
    with pytest.raises(DatasetError, match='no episode in'):
        load_dataset([tmp_path], embodiment=make_embodiment(), progress=False)
