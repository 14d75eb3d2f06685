"""The recorder counts everything, blocks nobody and leaves nothing half done."""

from __future__ import annotations

from pathlib import Path
import threading

import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter
from vla_alignment_ros.data.recorder import EpisodeRecorder
from vla_alignment_ros.embodiment import Embodiment
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
    recorder.push('instruction', wire.encode_string('pick up the red cube'), WALL_NS)
    recorder.start(WALL_NS)
    for ts_ns in (1_000, 2_000):
        for topic, raw in _tick(embodiment, ts_ns).items():
            recorder.push(topic, raw, WALL_NS)
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


def test_received_is_written_plus_dropped(embodiment, tmp_path: Path, monkeypatch):
    disk = threading.Event()
    write = EpisodeWriter.write

    def slow(self, *arguments):
        assert disk.wait(20.0)
        write(self, *arguments)

    monkeypatch.setattr(EpisodeWriter, 'write', slow)
    recorder = EpisodeRecorder(tmp_path, embodiment, queue_bytes=3_000)
    recorder.start(WALL_NS)
    for ts_ns in range(1, 101):
        for topic, raw in _tick(embodiment, ts_ns).items():
            recorder.push(topic, raw, WALL_NS)  # returns, although the disk stands still
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


def test_a_discarded_take_leaves_nothing_and_does_not_leak(recorder, embodiment, tmp_path):
    recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 1_000).items():
        recorder.push(topic, raw, WALL_NS)
    recorder.discard()
    assert list((tmp_path / 'demos').iterdir()) == []
    for topic, raw in _tick(embodiment, 2_000).items():
        recorder.push(topic, raw, WALL_NS)  # between episodes: nobody records
    recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 3_000).items():
        recorder.push(topic, raw, WALL_NS)
    path = recorder.stop(False, {}, WALL_NS)
    assert {ts_ns for _, _, ts_ns, _ in EpisodeReader(path).messages()} == {3_000}


def test_what_is_repeated_from_before_the_episode_is_not_part_of_it(recorder, embodiment):
    recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 1_000).items():
        recorder.push(topic, raw, WALL_NS)
    recorder.stop(True, {}, WALL_NS)
    recorder.start(WALL_NS)
    for ts_ns in (1_000, 12_000, 13_000):  # a simulator that waits says its last again
        for topic, raw in _tick(embodiment, ts_ns).items():
            if topic != 'gripper/command' or ts_ns > 1_000:
                recorder.push(topic, raw, WALL_NS)
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
            recorder.push(topic, raw, WALL_NS)
        with pytest.raises(BagError, match='no space left'):
            recorder.stop(True, {}, WALL_NS)
    assert 'no space left' in recorder.error
    assert list((tmp_path / 'demos').iterdir()) == []
    recorder.start(WALL_NS)
    assert recorder.error == ''
    for topic, raw in _tick(embodiment, 2_000).items():
        recorder.push(topic, raw, WALL_NS)
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
        recorder.push('instruction', said, WALL_NS)
    for topic, raw in _tick(embodiment, ts_ns).items():
        recorder.push(topic, raw, WALL_NS)
    return _promptly(recorder.stop, True, {}, WALL_NS)


@pytest.mark.parametrize(
    'broken',
    [b'', b'\x00\x01\x00\x00', b'\x00\x01\x00\x00\xff\xff\xff\x7fgo', b'\xff' * 64,
     wire.encode_string('rot')[:8] + b'\xff\xfe\xff\x00'],
)  # fmt: skip
def test_a_broken_instruction_is_recorded_and_counted_but_labels_nothing(
    recorder, embodiment, broken
):
    recorder.push('instruction', wire.encode_string('pick up the red cube'), WALL_NS)
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
    recorder.push('instruction', broken, WALL_NS)
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
    assert not list(tmp_path.glob('demos/*'))
    assert _record(recorder, embodiment, 2_000).is_dir()
    assert recorder.error == ''


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
    recorder.push('instruction', wire.encode_string('pick up the red cube'), WALL_NS)
    recorder.start(WALL_NS)
    for topic, raw in _tick(embodiment, 1_000).items():
        recorder.push(topic, raw, WALL_NS)
    assert at_disk.wait(20.0)
    asked = threading.Event()
    command = recorder._command

    def noticed(kind, *arguments):
        done = command(kind, *arguments)
        asked.set()
        return done

    monkeypatch.setattr(recorder, '_command', noticed)
    paths: list[Path] = []
    stopping = threading.Thread(
        target=lambda: paths.append(recorder.stop(True, {}, WALL_NS)), daemon=True
    )
    stopping.start()
    assert asked.wait(20.0)  # the backlog still waits for the disk
    recorder.push('instruction', wire.encode_string('push the ball'), WALL_NS)  # the next one's
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
        recorder.push('intervention', wire.encode_bool(drives), WALL_NS)

    def tick(ts_ns: int) -> None:
        for topic, raw in _tick(embodiment, ts_ns).items():
            recorder.push(topic, raw, WALL_NS)

    say(False)  # latched, from before
    recorder.start(WALL_NS)
    tick(1_000)
    say(True)
    say(True)  # said again, not taken over again
    tick(2_000)
    recorder.push('intervention', b'\0\1', WALL_NS)  # broken
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
