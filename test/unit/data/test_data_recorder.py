"""The recorder counts everything, blocks nobody and leaves nothing half done."""

from __future__ import annotations

from collections import Counter
import json
from pathlib import Path
import struct
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from rosbags.rosbag2 import Reader

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.data import disk_thread
from vla_alignment_ros.data import recorder as recorder_module
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter
from vla_alignment_ros.data.bag_writer import BagWriter
from vla_alignment_ros.data.recorder import EpisodeRecorder, RecorderOptions
from vla_alignment_ros.data.recover import recover_recording
from vla_alignment_ros.embodiment import Embodiment, INTERVENTION_TOPIC
from vla_alignment_ros.errors import BagError

WALL_NS = 1_800_000_000_000_000_000  # a wall clock far from the simulated stamps


@pytest.fixture
def embodiment() -> Embodiment:
    return Embodiment.load('tabletop')


@pytest.fixture
def recorder(embodiment, tmp_path: Path):
    made = EpisodeRecorder(tmp_path / 'demos', embodiment)
    yield made
    made.close()


def _tick(embodiment: Embodiment, ts_ns: int) -> dict[str, bytes]:
    image = np.full((8, 8, 3), ts_ns % 251, np.uint8)
    messages = {c.topic: wire.encode_image(image, ts_ns, c.name) for c in embodiment.cameras}
    joints = (*embodiment.joint_names, embodiment.gripper.joint)
    messages[embodiment.joint_states_topic] = wire.encode_joint_state(
        ts_ns, joints, np.zeros(len(joints))
    )
    return messages | make_codec(embodiment).encode(np.zeros(7), ts_ns)


def test_an_instruction_from_before_counts_and_all_logs_share_the_stamps_clock(
    recorder, embodiment
):
    recorder.push('instruction', wire.encode_string('pick up the red cube'))
    recorder.start(WALL_NS)
    for ts_ns in (1_000, 2_000):
        for topic, raw in _tick(embodiment, ts_ns).items():
            recorder.push(topic, raw)
    path = recorder.stop(True, {'task': 'pick'}, WALL_NS)
    reader = EpisodeReader(path)
    assert reader.info.instruction == 'pick up the red cube'
    assert reader.info.success is True
    assert reader.info.extra['task'] == 'pick'
    logs: dict[str, list[int]] = {}
    for topic, _, ts_ns, _ in reader.messages():
        logs.setdefault(topic, []).append(ts_ns)
    assert logs.pop('instruction') == [1_000]
    assert set(map(tuple, logs.values())) == {(1_000, 2_000)}


def test_a_sentence_of_the_episode_before_is_not_in_one_that_begins_with_its_own(
    recorder, embodiment
):
    recorder.push('instruction', wire.encode_string('pick up the red cube'))
    path = _record(recorder, embodiment, 1_000, wire.encode_string('push the ball'))
    (said,) = EpisodeReader(path).messages(['instruction'])
    assert wire.decode_string(said[-1]) == 'push the ball'
    assert recorder.counts()['instruction'].received == 1


def test_received_is_written_plus_dropped(embodiment, tmp_path: Path, monkeypatch):
    disk = threading.Event()
    write = EpisodeWriter.write

    def slow(self, *arguments):
        assert disk.wait(20.0)
        write(self, *arguments)

    monkeypatch.setattr(EpisodeWriter, 'write', slow)
    recorder = EpisodeRecorder(tmp_path, embodiment, RecorderOptions(queue_bytes=3_000))
    recorder.start(WALL_NS)
    for ts_ns in range(1, 101):
        for topic, raw in _tick(embodiment, ts_ns).items():
            recorder.push(topic, raw)  # returns, although the disk stands still
    disk.set()
    path = recorder.stop(None, {}, WALL_NS)
    counts = recorder.counts()
    recorder.close()
    in_bag = EpisodeReader(path).info.message_counts
    assert sum(count.dropped for count in counts.values()) > 0
    for topic, count in counts.items():
        assert count.received == count.written + count.dropped
        assert in_bag.get(topic, 0) == count.written
        if topic in embodiment.topics() and topic != 'instruction':
            assert count.received == 100


def test_small_messages_wait_for_the_next_look_and_bytes_do_not(embodiment, tmp_path, monkeypatch):
    woken = []
    ring = disk_thread.DiskThread._ring

    def wake(thread):
        woken.append(thread.waiting_bytes)
        ring(thread)

    monkeypatch.setattr(disk_thread.DiskThread, '_ring', wake)
    monkeypatch.setattr(disk_thread, 'LOOK_S', 3600.0)
    recorder = EpisodeRecorder(tmp_path, embodiment)
    topic = embodiment.joint_states_topic
    raw = wire.encode_joint_state(1, ['a'], np.zeros(1))
    try:
        recorder.start(0)
        woken.clear()
        for _ in range(50):
            recorder.push(topic, raw)
        assert woken == []
        assert recorder.disk.waiting_bytes == 50 * len(raw)
        camera = embodiment.cameras[0].topic
        recorder.push(camera, wire.encode_image(np.zeros((300, 300, 3), np.uint8), 2, 'camera'))
        deadline = time.monotonic() + 60.0
        while recorder.disk.waiting_bytes:
            assert time.monotonic() < deadline
        assert recorder.counts()[topic].written == 50
        recorder.discard()  # nobody waits an hour for a command
    finally:
        recorder.close()


def test_a_discarded_take_leaves_nothing_and_does_not_leak(recorder, embodiment, tmp_path):
    recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 1_000).items():
        recorder.push(topic, raw)
    recorder.discard()
    assert list((tmp_path / 'demos').iterdir()) == []
    for topic, raw in _tick(embodiment, 2_000).items():
        recorder.push(topic, raw)  # between episodes: nobody records
    recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 3_000).items():
        recorder.push(topic, raw)
    path = recorder.stop(False, {}, WALL_NS)
    assert {ts_ns for _, _, ts_ns, _ in EpisodeReader(path).messages()} == {3_000}


def test_what_is_repeated_from_before_the_episode_is_not_part_of_it(recorder, embodiment):
    recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 1_000).items():
        recorder.push(topic, raw)
    recorder.stop(True, {}, WALL_NS)
    recorder.start(WALL_NS)
    for ts_ns in (1_000, 12_000, 13_000):  # a simulator that waits says its last again
        for topic, raw in _tick(embodiment, ts_ns).items():
            if topic != 'gripper/command' or ts_ns > 1_000:
                recorder.push(topic, raw)
    path = recorder.stop(True, {}, WALL_NS)
    assert {ts_ns for _, _, ts_ns, _ in EpisodeReader(path).messages()} == {12_000, 13_000}


def test_a_disk_error_is_reported_and_the_next_episode_works(
    recorder, embodiment, tmp_path, monkeypatch
):
    def full(self, *arguments):
        raise BagError('no space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeWriter, 'write', full)
        recorder.start(WALL_NS)
        for topic, raw in _tick(embodiment, 1_000).items():
            recorder.push(topic, raw)
        with pytest.raises(BagError, match='no space left'):
            recorder.stop(True, {}, WALL_NS)
    assert 'no space left' in recorder.error
    assert list((tmp_path / 'demos').iterdir()) == []
    recorder.start(WALL_NS)
    assert recorder.error == ''
    for topic, raw in _tick(embodiment, 2_000).items():
        recorder.push(topic, raw)
    assert recorder.stop(True, {}, WALL_NS).is_dir()


def _promptly(call, *arguments):
    """What the call returns or raises; fails where it would wait for ever."""
    outcome: list = []

    def run() -> None:
        try:
            outcome.append(call(*arguments))
        except BagError as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20.0)
    assert outcome, f'{call.__name__} never returned'
    if isinstance(outcome[0], BagError):
        raise outcome[0]
    return outcome[0]


def _record(recorder, embodiment, ts_ns: int, said: bytes | None = None) -> Path:
    _promptly(recorder.start, WALL_NS)
    if said is not None:
        recorder.push('instruction', said)
    for topic, raw in _tick(embodiment, ts_ns).items():
        recorder.push(topic, raw)
    return _promptly(recorder.stop, True, {}, WALL_NS)


@pytest.mark.parametrize(
    'broken',
    [b'', b'\x00\x01\x00\x00', b'\x00\x01\x00\x00\xff\xff\xff\x7fgo', b'\xff' * 64,
     wire.encode_string('rot')[:8] + b'\xff\xfe\xff\x00'],
)  # fmt: skip
def test_a_broken_instruction_is_recorded_and_counted_but_labels_nothing(
    recorder, embodiment, broken
):
    recorder.push('instruction', wire.encode_string('pick up the red cube'))
    reader = EpisodeReader(_record(recorder, embodiment, 1_000, broken))
    assert reader.info.instruction == 'pick up the red cube'
    said = [bytes(raw) for topic, _, _, raw in reader.messages() if topic == 'instruction']
    assert said == [wire.encode_string('pick up the red cube'), broken]
    assert recorder.counts()['instruction'].broken == 1
    assert 'broken 1' in recorder.key_values()['instruction']
    next_one = _record(recorder, embodiment, 2_000, wire.encode_string('push the ball'))
    assert EpisodeReader(next_one).info.instruction == 'push the ball'
    assert recorder.counts()['instruction'].broken == 0


@pytest.mark.parametrize('broken', [b'', b'\xff'])
def test_an_instruction_broken_before_the_episode_shows_in_it(recorder, embodiment, broken):
    recorder.push('instruction', broken)
    reader = EpisodeReader(_record(recorder, embodiment, 1_000))
    assert reader.info.instruction == ''
    assert recorder.counts()['instruction'].broken == 1
    assert [raw for topic, _, _, raw in reader.messages() if topic == 'instruction'] == [broken]


@pytest.mark.parametrize('step', ['write', 'finish', '__init__'])
def test_whatever_fails_is_reported_and_the_next_episode_works(
    recorder, embodiment, tmp_path, monkeypatch, caplog, step
):
    def fail(self, *arguments, **options):
        raise RuntimeError('the storage plugin fell over')

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeWriter, step, fail)
        with pytest.raises(BagError, match='the storage plugin fell over'):
            _record(recorder, embodiment, 1_000)
    assert 'the storage plugin fell over' in recorder.error
    assert 'Traceback' in caplog.text
    assert not recorder.recording
    left = list(tmp_path.glob('demos/*'))
    assert left == recorder.disk.unfinished
    assert bool(left) == (step == 'finish')  # else nothing had been saved
    assert _record(recorder, embodiment, 2_000).is_dir()
    assert recorder.error == ''


def test_of_an_episode_that_fails_half_way_the_counts_say_what_was_saved(
    recorder, embodiment, tmp_path, monkeypatch
):
    flush, calls = BagWriter.flush, []

    def full(self):
        calls.append(self)
        if len(calls) > 2:
            raise OSError(28, 'No space left on device')
        flush(self)

    big = np.zeros((300, 400, 3), np.uint8)  # more than a chunk: flushed at once
    with monkeypatch.context() as patch:
        patch.setattr(BagWriter, 'flush', full)
        recorder.start(WALL_NS)
        for ts_ns in range(1, 6):
            recorder.push('front/image_raw', wire.encode_image(big, ts_ns, 'front'))
        with pytest.raises(BagError, match='No space left.*vla_bag recover'):
            _promptly(recorder.stop, True, {'task': 'pick'}, WALL_NS)
    count = recorder.counts()['front/image_raw']
    assert (count.received, count.written, count.dropped) == (5, 2, 3)
    (left,) = recorder.disk.unfinished
    done = recover_recording(left)
    assert done.counts == {'front/image_raw': 2}
    info = EpisodeReader(done.path).info
    assert info.success is None and 'No space left' in info.extra['incomplete']
    assert info.embodiment == embodiment
    assert _record(recorder, embodiment, 2_000).is_dir()


def test_discarding_a_take_that_failed_leaves_nothing(recorder, embodiment, tmp_path, monkeypatch):
    recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 1_000).items():
        recorder.push(topic, raw)
    (tmp_path / 'demos').rename(tmp_path / 'elsewhere')
    _until(lambda: recorder.error)
    assert 'No such file' in recorder.error
    recorder.discard()
    assert not (tmp_path / 'demos').exists()
    assert _record(recorder, embodiment, 2_000).parent == tmp_path / 'demos'


def _until(condition) -> None:
    pause = threading.Event()  # never set
    for _ in range(3_000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError('waited 30 s')


def test_changes_of_the_instruction_are_messages_and_the_newest_is_the_label(
    recorder, embodiment, tmp_path
):
    recorder.start(WALL_NS)
    for ts_ns, said in enumerate(['pick up the red cube', 'push the ball'], 1):
        recorder.push('instruction', wire.encode_string(said))
        for topic, raw in _tick(embodiment, ts_ns * 1_000).items():
            recorder.push(topic, raw)
    (about,) = tmp_path.glob('demos/.*/episode.json')
    _until(lambda: json.loads(about.read_text())['instruction'] == 'push the ball')
    reader = EpisodeReader(recorder.stop(True, {}, WALL_NS))
    assert reader.info.instruction == 'push the ball'
    said = [wire.decode_string(raw) for *_, raw in reader.messages(['instruction'])]
    assert said == ['pick up the red cube', 'push the ball']


@pytest.mark.parametrize('extra', [{'success': 'true'}, {'note': 'lone \ud800'}])
def test_a_note_that_cannot_be_written_is_refused_and_the_episode_goes_on(
    recorder, embodiment, extra
):
    recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 1_000).items():
        recorder.push(topic, raw)
    with pytest.raises(BagError, match='extra'):
        recorder.stop(True, extra, WALL_NS)
    assert recorder.recording
    assert recorder.stop(True, {}, WALL_NS).is_dir()


@pytest.mark.parametrize('stamps', [(5_000_000_000, 1_000, 2_000), (-5, 0, 7), (9, 9, 9)])
def test_clocks_may_jump_and_stamps_may_be_wrong(recorder, embodiment, stamps):
    recorder.start(WALL_NS)
    for ts_ns in stamps:
        sec, nanosec = divmod(ts_ns, 10**9)
        image = bytearray(wire.encode_image(np.zeros((8, 8, 3), np.uint8), 1, 'front'))
        struct.pack_into('<iI', image, 4, sec, nanosec)
        recorder.push('front/image_raw', bytes(image))
        recorder.push('gripper/command', wire.encode_float64(1.0))
    reader = EpisodeReader(recorder.stop(True, {}, WALL_NS))
    assert reader.info.message_counts == {'front/image_raw': 3, 'gripper/command': 3}
    logs = {topic: [] for topic in reader.info.message_counts}
    for topic, _, ts_ns, _ in reader.messages():
        logs[topic].append(ts_ns)
    # without a stamp of its own: the clock that the stamps are of, also after it was set back
    assert set(logs['gripper/command']) <= {t for t in stamps if t > 0}


def test_a_disk_that_is_nearly_full_refuses_an_episode_and_ends_one_whole(
    embodiment, tmp_path, monkeypatch
):
    free = [1_000_000]
    monkeypatch.setattr(disk_thread, 'free_bytes', lambda folder: free[0])
    recorder = EpisodeRecorder(tmp_path, embodiment, RecorderOptions(min_free_bytes=2_000_000))
    with pytest.raises(BagError, match='1.0 MB left'):
        recorder.start(WALL_NS)
    assert 'min_free_bytes' in recorder.error
    free[0] = 3_000_000
    name = recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 1_000).items():
        recorder.push(topic, raw)
    free[0] = 1_500_000
    _until(lambda: not recorder.recording)
    with pytest.raises(BagError, match='1.5 MB left'):
        recorder.stop(True, {}, WALL_NS)
    _until((tmp_path / name).exists)
    info = EpisodeReader(tmp_path / name).info
    assert info.success is None and '1.5 MB' in info.extra['ended']
    assert '1.5 MB' in recorder.error
    free[0] = 3_000_000
    assert _record(recorder, embodiment, 2_000).is_dir()
    assert recorder.error == ''
    recorder.close()


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_bag_in_several_files_keeps_every_message(embodiment, tmp_path, storage):
    options = RecorderOptions(storage=storage, split_bytes=20_000)
    recorder = EpisodeRecorder(tmp_path, embodiment, options)
    recorder.start(WALL_NS)
    sent = []
    for ts_ns in range(1, 101):
        for topic, raw in _tick(embodiment, ts_ns).items():
            recorder.push(topic, raw)
            sent.append(raw)
    path = recorder.stop(True, {}, WALL_NS)
    recorder.close()
    files = EpisodeReader(path).info.files
    assert len(files) > 3
    assert all(0 < (path / file).stat().st_size < 150_000 for file in files)
    assert Counter(raw for *_, raw in EpisodeReader(path).messages()) == Counter(sent)
    with Reader(path) as reader:
        assert Counter(raw for _, _, raw in reader.messages(reader.connections)) == Counter(sent)
        assert reader.message_count == len(sent)


def _push_all(recorder, embodiment, *stamps: int) -> None:
    for ts_ns in stamps:
        for topic, raw in _tick(embodiment, ts_ns).items():
            recorder.push(topic, raw)


@pytest.fixture
def keeper(embodiment, tmp_path: Path):
    made = EpisodeRecorder(tmp_path / 'demos', embodiment, RecorderOptions(keep_last_s=60.0))
    yield made
    made.close()


def test_the_last_seconds_become_a_bag_once(keeper, embodiment):
    keeper.push('instruction', wire.encode_string('pick up the red cube'))
    _push_all(keeper, embodiment, 1_000, 2_000)
    path = keeper.save_last(False, {'reason': 'asked_for_help'}, WALL_NS)
    reader = EpisodeReader(path)
    assert (reader.info.instruction, reader.info.success) == ('pick up the red cube', False)
    assert reader.info.extra['reason'] == 'asked_for_help'
    assert {ts_ns for _, _, ts_ns, _ in reader.messages()} == {1_000, 2_000}
    with pytest.raises(BagError, match='nothing came'):
        keeper.save_last(False, {}, WALL_NS)
    _push_all(keeper, embodiment, 3_000)
    reader = EpisodeReader(keeper.save_last(None, {}, WALL_NS))
    # the instruction holds on; of the messages none is in two bags
    assert reader.info.instruction == 'pick up the red cube'
    assert {ts_ns for _, _, ts_ns, _ in reader.messages()} == {3_000}
    assert reader.info.message_counts['instruction'] == 1


def test_of_what_is_kept_the_oldest_goes_first_and_the_instruction_holds(embodiment, tmp_path):
    tick = sum(map(len, _tick(embodiment, 1).values()))
    options = RecorderOptions(keep_last_s=60.0, keep_last_bytes=10 * tick)
    recorder = EpisodeRecorder(tmp_path, embodiment, options)
    recorder.push('instruction', wire.encode_string('push the ball'))
    _push_all(recorder, embodiment, *range(1, 101))
    assert int(recorder.key_values()['kept_bytes']) <= 10 * tick
    reader = EpisodeReader(recorder.save_last(None, {}, WALL_NS))
    recorder.close()
    stamps = {ts_ns for topic, _, ts_ns, _ in reader.messages() if topic == 'joint_states'}
    assert stamps == set(range(91, 101))
    assert reader.info.instruction == 'push the ball'


def test_an_episode_and_what_is_kept_do_not_leak_into_each_other(keeper, embodiment):
    _push_all(keeper, embodiment, 1_000)
    keeper.start(WALL_NS)
    _push_all(keeper, embodiment, 2_000)
    with pytest.raises(BagError, match='being recorded'):
        keeper.save_last(None, {}, WALL_NS)
    keeper.discard()
    _push_all(keeper, embodiment, 3_000)
    reader = EpisodeReader(keeper.save_last(None, {}, WALL_NS))
    assert {ts_ns for _, _, ts_ns, _ in reader.messages()} == {3_000}


def test_an_episode_can_begin_with_what_is_kept(keeper, embodiment):
    keeper.push('instruction', wire.encode_string('push the ball'))
    _push_all(keeper, embodiment, 1_000, 2_000)
    keeper.start(WALL_NS, lead_s=60.0)
    _push_all(keeper, embodiment, 2_000, 3_000)  # one of them is repeated
    reader = EpisodeReader(keeper.stop(True, {}, WALL_NS))
    logs = [t for topic, _, t, _ in reader.messages() if topic == 'joint_states']
    assert logs == [1_000, 2_000, 3_000]
    assert reader.info.instruction == 'push the ball'


def test_without_memory_there_are_no_last_seconds(recorder, embodiment):
    _push_all(recorder, embodiment, 1_000)
    with pytest.raises(BagError, match='keep_last_s'):
        recorder.save_last(None, {}, WALL_NS)


def test_topics_that_do_not_come_are_named(recorder, embodiment, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(recorder_module, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    # who drives is said when that changes, and not again
    assert set(recorder.missing()) == set(embodiment.recorded_topics()) - {INTERVENTION_TOPIC}
    for _ in range(8):
        now[0] += 1.0
        for topic, raw in _tick(embodiment, int(now[0])).items():
            if topic != 'front/image_raw' or now[0] < 103.0:
                recorder.push(topic, raw)
        recorder.key_values()
    values = recorder.key_values()
    assert 'front/image_raw' in recorder.missing() and 'instruction' in values['missing']
    assert 'joint_states' not in values['missing']
    assert values['rate_joint_states_hz'] == '1.0'
    recorder.push('front/image_raw', _tick(embodiment, 1)['front/image_raw'])
    assert 'front/image_raw' not in recorder.missing()
    monkeypatch.undo()


def test_the_label_is_what_held_when_the_episode_was_stopped(
    recorder, embodiment, monkeypatch
):
    at_disk, disk = threading.Event(), threading.Event()
    write = EpisodeWriter.write

    def slow(self, *arguments):
        at_disk.set()
        assert disk.wait(20.0)
        write(self, *arguments)

    monkeypatch.setattr(EpisodeWriter, 'write', slow)
    recorder.push('instruction', wire.encode_string('pick up the red cube'))
    recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 1_000).items():
        recorder.push(topic, raw)
    assert at_disk.wait(20.0)
    asked = threading.Event()
    command = recorder.disk.command

    def noticed(kind, *arguments):
        done = command(kind, *arguments)
        asked.set()
        return done

    monkeypatch.setattr(recorder.disk, 'command', noticed)
    paths: list[Path] = []
    stopping = threading.Thread(
        target=lambda: paths.append(recorder.stop(True, {}, WALL_NS)), daemon=True
    )
    stopping.start()
    assert asked.wait(20.0)  # the backlog still waits for the disk
    recorder.push('instruction', wire.encode_string('push the ball'))  # the next one's
    disk.set()
    stopping.join(20.0)
    assert EpisodeReader(paths[0]).info.instruction == 'pick up the red cube'


def test_episodes_cannot_be_nested_nor_ended_twice(recorder):
    recorder.start(WALL_NS)
    with pytest.raises(BagError, match='stop or discard it first'):
        recorder.start(WALL_NS)
    recorder.discard()
    with pytest.raises(BagError, match='start one first'):
        recorder.discard()


def test_an_episode_tells_how_often_a_person_took_over_and_from_when(recorder, embodiment):
    def say(drives: bool) -> None:
        recorder.push('intervention', wire.encode_bool(drives))

    def tick(ts_ns: int) -> None:
        for topic, raw in _tick(embodiment, ts_ns).items():
            recorder.push(topic, raw)

    say(False)  # latched, from before
    recorder.start(WALL_NS)
    tick(1_000)
    say(True)
    say(True)  # said again, not taken over again
    tick(2_000)
    recorder.push('intervention', b'\0\1')  # broken
    say(False)
    tick(3_000)
    say(True)
    tick(4_000)
    first = EpisodeReader(recorder.stop(True, {'task': 'pick'}, WALL_NS))
    assert first.info.extra == {'interventions': '2', 'task': 'pick'}
    assert _told(first) == [(1_000, True), (1_000, True), (2_000, False), (3_000, True)]
    recorder.start(WALL_NS)  # the person still drives, and nobody says so again
    tick(5_000)
    second = EpisodeReader(recorder.stop(True, {}, WALL_NS))
    assert second.info.extra == {'interventions': '1'}
    assert _told(second) == [(5_000, True)]
    say(False)
    recorder.start(WALL_NS)
    tick(6_000)
    third = EpisodeReader(recorder.stop(True, {}, WALL_NS))
    assert third.info.extra == {} and _told(third) == []


def _told(reader: EpisodeReader) -> list[tuple[int, bool]]:
    """(log time, what it says) of every whole message on `intervention`."""
    found = [(ts_ns, raw) for *_, ts_ns, raw in reader.messages(['intervention'])]
    return [(ts_ns, wire.decode_bool(raw)) for ts_ns, raw in found if len(raw) > 4]
