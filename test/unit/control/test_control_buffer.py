from __future__ import annotations

import dataclasses
import sys
import threading

import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.control.buffer import ObservationBuffer
from vla_alignment_ros.embodiment import ActionSpec, Camera, CommandSpec, Embodiment, Gripper
from vla_alignment_ros.errors import ConfigError, ControlError

MS = 1_000_000


@pytest.fixture
def embodiment() -> Embodiment:
    return Embodiment(
        name='buffered',
        cameras=(
            Camera('front', 'front/image_raw', 8, 8),
            Camera('wrist', 'wrist/jpeg', 8, 8, True),
        ),
        joint_names=('j1', 'j2'),
        gripper=Gripper('finger', 0.04, 0.0),
        action=ActionSpec(
            'ee_delta', tuple('abcdefg'), ('1',) * 7, (-1.0,) * 6 + (0.0,), (1.0,) * 7
        ),
        command=CommandSpec('twist', {'twist': 't', 'gripper': 'g'}),
        rate_hz=10.0,
        max_age_s={'front': 0.3, 'joint_states': 0.2},
    )


@pytest.fixture
def buffer(embodiment) -> ObservationBuffer:
    return ObservationBuffer(embodiment)


def image(ts_ms: int, value: int = 0) -> bytes:
    return wire.encode_image(np.full((8, 8, 3), value, np.uint8), ts_ms * MS, 'camera')


def joints(ts_ms: int) -> bytes:
    return wire.encode_joint_state(ts_ms * MS, ('j1', 'j2', 'finger'), np.zeros(3))


def push_all(buffer: ObservationBuffer, ts_ms: int, receipt_ms: int, value: int = 0) -> None:
    # the compressed camera's stamp lies where every header's does
    for topic, raw in (
        ('front/image_raw', image(ts_ms, value)),
        ('wrist/jpeg', image(ts_ms, value)),
        ('joint_states', joints(ts_ms)),
        ('instruction', wire.encode_string('lift the cube')),
    ):
        buffer.push(topic, raw, receipt_ms * MS)


def test_before_anything_came_every_source_is_missing(buffer):
    assert buffer.missing() == ('front', 'wrist', 'joint_states', 'instruction')
    assert buffer.snapshot().raw == {}
    assert buffer.complete_ts_ns() is None
    assert 'no wrist yet' in buffer.hold_reason(0)


def test_a_snapshot_holds_the_newest_bytes_of_every_topic(buffer, embodiment):
    push_all(buffer, 1000, 0)
    push_all(buffer, 1100, 100, value=7)
    snapshot = buffer.snapshot()
    assert snapshot.raw.keys() == embodiment.observation_topics().keys()
    assert snapshot.raw['front/image_raw'] == image(1100, 7)
    assert snapshot.stamps_ns['front'] == snapshot.ts_ns == 1100 * MS
    assert snapshot.missing == ()


def test_a_snapshot_as_of_an_instant_never_looks_ahead(buffer):
    for ts_ms in (1000, 1100, 1200):
        push_all(buffer, ts_ms, ts_ms)
    buffer.push('joint_states', joints(1150), 1210 * MS)  # overtaken: too late to be used
    snapshot = buffer.snapshot(1190 * MS)
    assert snapshot.stamps_ns['front'] == 1100 * MS
    assert snapshot.stamps_ns['joint_states'] == 1100 * MS
    assert buffer.snapshot(900 * MS).missing == ('front', 'wrist', 'joint_states')


def test_lock_step_sees_an_instant_once_all_sources_reached_it(buffer):
    push_all(buffer, 1000, 0)
    assert buffer.complete_ts_ns() == 1000 * MS
    buffer.push('front/image_raw', image(1100), 100 * MS)
    buffer.push('joint_states', joints(1100), 100 * MS)
    assert buffer.complete_ts_ns() == 1000 * MS
    buffer.push('wrist/jpeg', image(1100), 101 * MS)
    assert buffer.complete_ts_ns() == 1100 * MS


def test_ages_count_from_the_receipt_on_the_steady_clock(buffer):
    push_all(buffer, 1000, 50)
    assert buffer.ages(250 * MS) == pytest.approx(dict.fromkeys(buffer.ages(0), 0.2))


def test_a_frame_that_was_long_under_way_is_as_old_as_its_stamp(buffer):
    push_all(buffer, 1000, 50)
    ages = buffer.ages(60 * MS, now_ns=1500 * MS)
    assert ages['front'] == pytest.approx(0.5)
    assert ages['instruction'] == pytest.approx(0.01)


def test_silence_of_one_source_makes_it_stale_and_names_it(buffer):
    push_all(buffer, 1000, 0)
    buffer.push('joint_states', joints(1300), 300 * MS)
    buffer.push('wrist/jpeg', image(1300), 300 * MS)
    assert buffer.stale(300 * MS) == ()
    assert buffer.stale(301 * MS) == ('front',)
    assert buffer.hold_reason(310 * MS) == 'front is 0.31 s old (limit 0.30 s)'


def test_a_frame_that_is_old_by_its_stamp_is_a_reason_to_hold(buffer):
    push_all(buffer, 1000, 0)
    assert buffer.hold_reason(50 * MS, now_ns=1150 * MS) == ''
    reason = buffer.hold_reason(50 * MS, now_ns=1350 * MS)
    assert 'front is 0.35 s old by its stamp (limit 0.30 s)' in reason
    assert 'joint_states is 0.35 s old by its stamp (limit 0.20 s)' in reason


def test_a_frame_from_before_the_clock_was_set_back_is_a_reason_to_hold(buffer):
    push_all(buffer, 8000, 0)
    assert "front is 7.90 s ahead of the node's clock" in buffer.hold_reason(0, now_ns=100 * MS)


def test_a_silent_source_is_named_once(buffer):
    push_all(buffer, 1000, 0)
    push_all(buffer, 1400, 400)
    buffer.push('front/image_raw', image(1800), 800 * MS)
    reason = buffer.hold_reason(800 * MS, now_ns=1800 * MS)
    assert reason.count('joint_states') == 1 and 'front' not in reason


@pytest.mark.parametrize('apart_ms', [1_700_000_000_000, -1_700_000_000_000, 20_000])
def test_a_clock_that_is_not_that_of_the_stamps_is_named(buffer, apart_ms):
    push_all(buffer, 2_000_000_000_000, 0)
    reason = buffer.hold_reason(0, now_ns=(2_000_000_000_000 + apart_ms) * MS)
    assert f"the node's clock differ by {abs(apart_ms) // 1000} s: set use_sim_time" in reason
    assert 'front, wrist, joint_states' in reason
    assert buffer.hold_reason(0) == ''  # where commands carry the stamps, any clock will do


def test_one_camera_with_a_clock_of_its_own_is_named_in_either_mode(buffer):
    push_all(buffer, 1_000_000, 0)
    buffer.push('front/image_raw', image(2_000_000), 0)
    buffer.push('wrist/jpeg', image(2_000_000), 0)
    assert 'the stamps of joint_states and each other differ by 1000 s' in buffer.hold_reason(0)
    assert 'the stamps of joint_states and the node' in buffer.hold_reason(0, 2_000_000 * MS)


def test_ages_and_counts_are_told_as_text(buffer):
    push_all(buffer, 1000, 0)
    buffer.push('joint_states', joints(950), 10 * MS)
    values = buffer.key_values(50 * MS)
    assert values['age_front_s'] == '0.050' and values['late: joint_states'] == '1'


def test_a_source_without_a_limit_of_its_own_is_still_watched(buffer):
    push_all(buffer, 1000, 0)
    assert 'wrist' not in buffer.stale(500 * MS)
    assert 'wrist' in buffer.stale(501 * MS)  # five control periods


def test_an_instruction_does_not_grow_stale(buffer):
    push_all(buffer, 1000, 0)
    assert 'instruction' not in buffer.stale(3_600_000 * MS)


def test_a_repeated_message_is_no_news_but_shows_the_source_is_alive(buffer):
    push_all(buffer, 1000, 0)
    assert not buffer.push('front/image_raw', image(1000), 250 * MS)
    assert 'front' not in buffer.stale(400 * MS)


def test_another_message_with_the_same_stamp_replaces(buffer):
    push_all(buffer, 1000, 0)
    assert buffer.push('front/image_raw', image(1000, 9), 1 * MS)
    assert buffer.snapshot(1000 * MS).raw['front/image_raw'] == image(1000, 9)


def test_an_overtaken_message_is_dropped_and_counted(buffer):
    push_all(buffer, 1000, 0)
    assert not buffer.push('front/image_raw', image(950), 1 * MS)
    assert buffer.snapshot().stamps_ns['front'] == 1000 * MS
    assert buffer.late['front'] == 1
    assert buffer.clock_resets == 0


def test_a_clock_set_back_forgets_what_was_stamped_later(buffer):
    push_all(buffer, 90_000, 0)
    assert buffer.push('front/image_raw', image(1000), 1 * MS)
    assert buffer.clock_resets == 1
    assert buffer.missing() == ('wrist', 'joint_states')  # and not old images with new joints
    push_all(buffer, 1000, 2)
    assert buffer.complete_ts_ns() == 1000 * MS


def test_a_clock_set_back_by_one_control_step_is_a_reset_too(buffer):
    push_all(buffer, 1100, 0)
    assert buffer.push('joint_states', joints(1000), 1 * MS)
    assert buffer.clock_resets == 1


def test_a_clock_that_jumps_ahead_is_followed(buffer):
    push_all(buffer, 1000, 0)
    push_all(buffer, 500_000, 100)
    assert buffer.complete_ts_ns() == 500_000 * MS


def test_a_message_without_a_stamp_takes_the_node_time(buffer):
    buffer.push('front/image_raw', image(0), 5 * MS, ts_ns=777 * MS)
    buffer.push('instruction', wire.encode_string('lift it'), 5 * MS, ts_ns=778 * MS)
    assert buffer.snapshot().stamps_ns == {'front': 777 * MS, 'instruction': 778 * MS}


def test_broken_bytes_are_counted_and_do_not_refresh_the_source(buffer):
    push_all(buffer, 1000, 0)
    assert not buffer.push('front/image_raw', b'\x00\x01', 400 * MS)
    assert buffer.broken['front'] == 1
    assert 'front' in buffer.stale(400 * MS)


def test_clear_keeps_the_instruction_because_it_is_sent_only_once(buffer):
    push_all(buffer, 1000, 0)
    buffer.clear()
    assert buffer.missing() == ('front', 'wrist', 'joint_states')
    buffer.clear(keep_instruction=False)
    assert 'instruction' in buffer.missing()


def test_a_topic_of_somebody_else_is_an_error(buffer):
    with pytest.raises(ControlError, match='front/image_raw'):
        buffer.push('rear/image_raw', image(1), 0)


@pytest.mark.parametrize('wrong', [{'keep_s': 0.0}, {'max_bytes': 0}])
def test_a_buffer_that_keeps_nothing_is_refused(embodiment, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ObservationBuffer(embodiment, **wrong)


def test_fast_joints_are_still_known_as_of_a_slow_cameras_stamp(buffer):
    buffer.push('instruction', wire.encode_string('lift the cube'), 0)
    camera_ms = range(1000, 3000, 33)  # 30 Hz, under way for 40 ms; joints at 500 Hz
    arrivals = [(ts + 40, 0, 'front/image_raw', image(ts)) for ts in camera_ms]
    arrivals += [(ts + 45, 1, 'wrist/jpeg', image(ts)) for ts in camera_ms]
    arrivals += [(ts, 2, 'joint_states', joints(ts)) for ts in range(990, 3050, 2)]
    decided = set()
    for at_ms, _, topic, raw in sorted(arrivals):
        buffer.push(topic, raw, at_ms * MS)
        ts_ns = buffer.complete_ts_ns()
        if ts_ns is None:
            continue
        snapshot = buffer.snapshot(ts_ns)
        assert snapshot.missing == ()
        stamps = {n: ns for n, ns in snapshot.stamps_ns.items() if n != 'instruction'}
        assert max(stamps.values()) <= ts_ns
        assert ts_ns - stamps['joint_states'] < 2 * MS
        decided.add(ts_ns)
    assert decided == {ts * MS for ts in camera_ms}


@pytest.mark.parametrize('clock', ['stamps', 'receipts'])
def test_what_a_source_said_before_a_silence_is_forgotten_when_it_speaks_again(buffer, clock):
    push_all(buffer, 1000, 0)
    for ts_ms in (1100, 1200, 1300):
        others_ms = ts_ms if clock == 'stamps' else 1000 + (ts_ms - 1000) // 10
        buffer.push('joint_states', joints(others_ms), (ts_ms - 1000) * MS)
        buffer.push('wrist/jpeg', image(others_ms), (ts_ms - 1000) * MS)
    again_ms = 1310 if clock == 'stamps' else 1031
    buffer.push('front/image_raw', image(again_ms), 310 * MS)
    assert buffer.hold_reason(310 * MS) == ''  # everybody speaks; but of what is common to all …
    assert buffer.complete_ts_ns() is None  # … the front has nothing younger than 310 ms
    push_all(buffer, again_ms + 5, 315)
    assert buffer.complete_ts_ns() == (again_ms + 5) * MS
    assert buffer.snapshot(again_ms * MS + 5 * MS).missing == ()


def test_sources_that_are_slower_than_their_limits_are_named_where_no_instant_is_known(buffer):
    assert buffer.too_rare() == ''  # everything is missing
    for k in range(3):  # every 0.25 s, one after the other; the limit of the joints is 0.2 s
        for late_ms, topic, raw in ((0, 'joint_states', joints), (20, 'front/image_raw', image),
                                    (40, 'wrist/jpeg', image)):  # fmt: skip
            ms = 250 * k + late_ms
            buffer.push(topic, raw(ms), ms * MS)
        buffer.push('instruction', wire.encode_string('lift the cube'), ms * MS)
    assert buffer.hold_reason(ms * MS) == ''  # nothing is too old just now
    assert buffer.complete_ts_ns() == 500 * MS  # the two others know what was then
    for _ in range(2):  # said twice, it is still the only one
        buffer.push('joint_states', joints(770), 770 * MS)  # and now nobody does
    assert buffer.complete_ts_ns() is None
    assert buffer.too_rare() == (
        'joint_states came after 0.27 s (limit 0.20 s); a limit has to be longer than a period')
    buffer.push('joint_states', joints(800), 800 * MS)
    assert buffer.too_rare() == ''


def test_messages_are_kept_for_the_slowest_source_that_is_still_fresh(embodiment):
    patient = dataclasses.replace(embodiment, max_age_s={'front': 3.0})
    buffer = ObservationBuffer(patient)
    push_all(buffer, 1000, 0)
    for ts_ms in range(1000, 3900, 10):
        buffer.push('joint_states', joints(ts_ms), ts_ms * MS)
    assert buffer.snapshot(1000 * MS).missing == ()


def test_what_is_too_old_is_forgotten_but_the_last_before_that_is_kept(buffer):
    for ts_ms in range(1000, 11_000, 100):
        buffer.push('front/image_raw', image(ts_ms), ts_ms * MS)
    newest = 10_900
    assert buffer.snapshot((newest - 1000) * MS).stamps_ns == {'front': (newest - 1000) * MS}
    assert buffer.snapshot((newest - 1050) * MS).stamps_ns == {'front': (newest - 1100) * MS}
    assert buffer.snapshot((newest - 1150) * MS).missing[0] == 'front'


def test_bytes_stay_bounded_whatever_the_age(embodiment):
    size = len(image(1000))
    buffer = ObservationBuffer(embodiment, max_bytes=10 * size)
    for ts_ms in range(1000, 2000):
        buffer.push('front/image_raw', image(ts_ms), ts_ms * MS)
        buffer.push('joint_states', joints(ts_ms), ts_ms * MS)
    assert buffer.kept_bytes()['front'] <= 10 * size
    assert buffer.snapshot(1990 * MS).stamps_ns['front'] == 1990 * MS
    buffer.push('front/image_raw', image(1500), 2000 * MS)  # the clock is set back
    buffer.clear(keep_instruction=False)
    assert buffer.kept_bytes() == dict.fromkeys(buffer.kept_bytes(), 0)


def test_a_few_messages_are_kept_even_where_each_is_too_big(embodiment):
    buffer = ObservationBuffer(embodiment, max_bytes=1)
    for ts_ms in range(1000, 1100):
        buffer.push('front/image_raw', image(ts_ms), ts_ms * MS)
    assert buffer.snapshot(1096 * MS).stamps_ns['front'] == 1096 * MS


def test_threads_pushing_and_reading_never_see_a_torn_state(embodiment):
    buffer = ObservationBuffer(embodiment)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    messages = [image(1000 + 10 * i) for i in range(2000)]
    errors: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        last = 0
        while not done.is_set():
            try:
                snapshot = buffer.snapshot()
                stamp = snapshot.stamps_ns.get('front', 0)
                raw = snapshot.raw.get('front/image_raw')
                assert stamp >= last
                assert raw is None or wire.stamp_ns(raw, 'sensor_msgs/msg/Image') == stamp
            except (AssertionError, RuntimeError) as error:  # e.g. a deque that changed
                errors.append(error)
                return
            last = stamp

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for i, raw in enumerate(messages):
            buffer.push('front/image_raw', raw, i)
    finally:
        done.set()
        reader.join()
        sys.setswitchinterval(switch)
    assert not errors


@pytest.mark.parametrize(
    'use',
    [
        lambda b: b.push('front/image_raw', image(1000), 0),
        lambda b: b.snapshot(),
        lambda b: b.complete_ts_ns(),
        lambda b: b.missing(),
        lambda b: b.ages(0),
        lambda b: b.clear(),
    ],
)
def test_whoever_uses_the_buffer_waits_for_who_is_at_it(buffer, use):
    through = threading.Event()
    user = threading.Thread(target=lambda: (use(buffer), through.set()), daemon=True)
    with buffer._lock:
        user.start()
        assert not through.wait(0.05)
    assert through.wait(10.0)
    user.join()
