"""Motion begins an episode and rest ends it; noise, gaps and set clocks do neither."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.data.motion import AutoEpisodes, AutoRule, MotionWatch
from vla_alignment_ros.wire import JointSample

NAMES = ('a', 'b', 'finger')
RULE = AutoRule(speed=0.05, idle_s=2.0, min_s=1.0)
HZ = 100
EMPTY = np.empty(0)


class Arm:
    """Joint states at 100 Hz, and what is made of them."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self.auto = AutoEpisodes()
        self.t_s = start_s
        self.steady_s = 5.0
        self.position = np.zeros(3)
        self.recording: bool | None = False
        self.asked: list[tuple[str, float]] = []
        self.rng = np.random.default_rng(0)

    def go_on(self, seconds: float, speed: float = 0.0, noise: float = 0.0) -> None:
        for _ in range(round(seconds * HZ)):
            self.t_s += 1 / HZ
            self.steady_s += 1 / HZ
            self.position[1] += speed / HZ
            self.say(self.position + self.rng.normal(0.0, noise, 3))

    def say(self, position: np.ndarray) -> None:
        sample = JointSample(round(self.t_s * 1e9), NAMES, position, EMPTY, EMPTY)
        self.obey(self.auto.push(sample, self.steady_s, self.recording, RULE))

    def obey(self, what: str | None) -> None:
        if what is not None:
            self.asked.append((what, self.t_s))
            self.recording = what == 'start'


def test_an_episode_begins_with_motion_and_ends_with_rest():
    arm = Arm()
    for _ in range(3):
        arm.go_on(3.0)
        arm.go_on(4.0, speed=0.2)
    arm.go_on(3.0)
    names, times = zip(*arm.asked)
    assert names == ('start', 'stop') * 3
    began, ended = times[::2], times[1::2]
    for number in range(3):
        moved_s = 1003.0 + 7.0 * number
        assert moved_s < began[number] < moved_s + 0.3
        assert moved_s + 6.0 <= ended[number] < moved_s + 6.3


def test_a_bump_is_discarded():
    arm = Arm()
    arm.go_on(1.0)
    arm.go_on(0.2, speed=0.5)
    arm.go_on(3.0)
    assert [name for name, _ in arm.asked] == ['start', 'discard']


def test_motion_while_an_episode_is_being_begun_counts():
    arm = Arm()
    arm.go_on(3.0)
    arm.go_on(0.2, speed=0.2)
    assert arm.recording
    arm.recording = None  # the disk takes its time
    arm.go_on(1.5, speed=0.2)
    arm.recording = True
    arm.go_on(3.0)
    assert [what for what, _ in arm.asked] == ['start', 'stop']


def test_the_noise_of_an_encoder_is_no_motion():
    arm = Arm()
    arm.go_on(10.0, noise=5e-4)
    assert arm.asked == []


def test_short_rests_do_not_cut_an_episode():
    arm = Arm()
    arm.go_on(1.0)
    for _ in range(4):
        arm.go_on(2.0, speed=0.3)
        arm.go_on(1.5)
    assert [name for name, _ in arm.asked] == ['start']


def test_slow_motion_goes_on_and_does_not_begin():
    arm = Arm()
    arm.go_on(5.0, speed=0.03)
    assert arm.asked == []
    arm.go_on(1.0)
    arm.go_on(1.0, speed=0.2)
    arm.go_on(5.0, speed=0.03)
    assert [name for name, _ in arm.asked] == ['start']


def test_what_moves_already_has_to_rest_before_it_begins():
    arm = Arm()
    arm.go_on(5.0, speed=0.3)
    assert arm.asked == []
    arm.go_on(1.0)
    arm.go_on(1.0, speed=0.3)
    assert [name for name, _ in arm.asked] == ['start']


def test_an_episode_that_somebody_else_ended_does_not_begin_again_in_the_same_motion():
    arm = Arm()
    arm.go_on(1.0)
    arm.go_on(2.0, speed=0.3)
    arm.recording = False  # by service
    arm.go_on(3.0, speed=0.3)
    assert [name for name, _ in arm.asked] == ['start']
    arm.go_on(1.0)
    arm.go_on(1.0, speed=0.3)
    assert [name for name, _ in arm.asked] == ['start', 'start']


def test_an_episode_that_somebody_else_began_is_theirs_to_end():
    arm = Arm()
    arm.go_on(1.0)
    arm.recording = True  # by service
    arm.go_on(2.0, speed=0.3)
    arm.go_on(5.0)
    arm.obey(arm.auto.silence(arm.steady_s + 60.0, True, RULE))
    assert arm.asked == []


def test_silence_ends_an_episode():
    arm = Arm()
    arm.go_on(1.0)
    arm.go_on(2.0, speed=0.3)
    assert arm.auto.silence(arm.steady_s + 1.9, True, RULE) is None
    assert arm.auto.silence(arm.steady_s + 2.0, True, RULE) == 'stop'
    assert arm.auto.silence(arm.steady_s + 9.0, False, RULE) is None


@settings(deadline=None, max_examples=30)
@given(jump_s=st.floats(-1e6, 1e6).filter(lambda s: abs(s) > 1.1))
def test_a_clock_that_is_set_neither_begins_nor_ends_an_episode(jump_s):
    arm = Arm(start_s=2e6)
    arm.go_on(1.0)
    arm.t_s += jump_s
    arm.go_on(1.0)
    assert arm.asked == []
    arm.go_on(2.0, speed=0.3)
    arm.t_s -= jump_s
    arm.go_on(1.5, speed=0.3)
    assert [name for name, _ in arm.asked] == ['start']
    arm.go_on(2.5)
    assert [name for name, _ in arm.asked] == ['start', 'stop']


@pytest.mark.parametrize('broken', [np.full(3, np.nan), np.zeros(2), np.array([0, np.inf, 0])])
def test_positions_that_mean_nothing_are_ignored(broken):
    arm = Arm()
    arm.go_on(1.0)
    for _ in range(20):
        arm.go_on(0.05)
        arm.say(broken)
    assert arm.asked == []
    arm.go_on(1.0)
    arm.go_on(1.0, speed=0.3)
    assert [name for name, _ in arm.asked] == ['start']


def test_stamps_that_were_never_set_are_replaced_by_the_steady_clock():
    arm = Arm()
    sample = JointSample(0, NAMES, np.zeros(3), EMPTY, EMPTY)
    for tick in range(500):
        position = np.zeros(3) + max(0, tick - 200) * 0.003
        arm.obey(arm.auto.push(replace(sample, position=position), 7.0 + tick / HZ, False, RULE))
    assert arm.asked[0][0] == 'start'


@settings(deadline=None, max_examples=25)
@given(speed=st.floats(1e-3, 10.0), hz=st.integers(10, 300))
def test_the_speed_is_that_of_the_fastest_joint(speed, hz):
    watch = MotionWatch()
    for tick in range(hz):
        ts_ns = 1_800_000_000_000_000_000 + tick * 1_000_000_000 // hz
        way = speed * (ts_ns - 1_800_000_000_000_000_000) * 1e-9
        found = watch.push(ts_ns, NAMES, np.array([0.0, -way, way / 2]))
    assert found == pytest.approx(speed, rel=1e-6)
