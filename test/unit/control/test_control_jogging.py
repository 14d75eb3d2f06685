"""A jogged arm keeps its limits, comes to rest when nobody drives, and keeps hold of things."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from motion_limits import assert_within_limits, EMBODIMENTS
import numpy as np
import pytest

from vla_alignment_ros.control.jogging import FASTEST, Jogger, REST_STEPS, SLOWEST
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError

STEP_NS = 100_000_000
FORWARD = np.array([1.0, 0, 0, 0, 0, 0, 0])
STILL = np.zeros(7)


class Arm:
    """An arm that does what it is told, jogged step by step."""

    def __init__(self, name: str | Embodiment = 'tabletop', speed: float = 0.3) -> None:
        self.embodiment = name if isinstance(name, Embodiment) else Embodiment.load(name)
        self.jogger = Jogger(self.embodiment, speed)
        self.ts_ns = 10 * STEP_NS
        self.joints = len(self.embodiment.joint_names)
        self.state = np.zeros(self.joints + 10)
        self.state[self.joints] = 1.0
        self.state[self.joints + 1 : self.joints + 4] = (0.5, 0.0, 0.2)
        self.sent: list = []

    def step(self, deflection, seen: bool = True):
        measured = (self.ts_ns, self.state.copy()) if seen else None
        sent = self.jogger.command(self.ts_ns, deflection, measured)
        self.ts_ns += STEP_NS
        if sent is not None and sent.action is not None:
            self.sent.append(sent.action)
            if self.embodiment.action.space == 'joint_position':
                count = min(self.joints, 7)
                self.state[:count] = sent.action[:count]
            if self.jogger.arm.guard.gripper_index is not None:
                self.state[self.joints] = sent.action[6]
        return sent

    def run(self, deflection, steps: int):
        return [self.step(deflection) for _ in range(steps)]


@pytest.mark.parametrize(
    ('name', 'expected'),
    [('tabletop', 0.015), ('franka_servo', 0.009), ('ur_forward_velocity', 0.24)],
)
def test_full_deflection_is_the_chosen_share_of_the_robots_speed(name, expected):
    arm = Arm(name)
    arm.run(FORWARD, 20)
    assert arm.sent[-1][0] == pytest.approx(expected)
    np.testing.assert_allclose(arm.sent[-1][1:6], 0.0, atol=1e-12)
    arm.run(0.5 * FORWARD, 20)
    assert arm.sent[-1][0] == pytest.approx(expected / 2)


def test_joints_are_moved_from_where_they_are_and_stay_where_they_were_let_go():
    arm = Arm('generic_jtc', speed=0.8)
    arm.state[:6] = (0.5, -0.2, 0, 0, 0, 0)
    arm.run(FORWARD, 10)
    speed = (arm.sent[-1][0] - arm.sent[-2][0]) * 10
    assert speed == pytest.approx(0.8)  # of 1 rad/s
    assert 0.5 < arm.sent[0][0] < 0.5 + 0.8 / 10
    np.testing.assert_allclose(np.array(arm.sent)[:, 1], -0.2)
    before = arm.sent[-1][0]
    arm.run(None, 30)
    assert before < arm.sent[-1][0] < before + 0.2  # it brakes, and does not come back
    assert arm.sent[-1][0] == arm.sent[-2][0]
    arm.state[0] = 2.0  # somebody moved it by hand
    arm.run(STILL, 2)
    assert arm.sent[-1][0] == pytest.approx(2.0)


@pytest.mark.parametrize('name', ['generic_jtc', 'ur_forward_velocity'])
def test_joints_that_are_not_measured_are_not_moved_even_if_they_once_were(name):
    arm = Arm(name)
    arm.run(FORWARD, 3)
    arm.run(None, 30)
    blind = arm.step(FORWARD, seen=False)
    assert blind.action is None and 'unknown' in blind.refused
    assert arm.step(FORWARD).action is not None  # as soon as they are


def test_joint_targets_never_leave_their_range():
    arm = Arm('generic_jtc', speed=1.0)
    arm.run(FORWARD, 60)
    assert arm.sent[-1][0] == pytest.approx(2.9, abs=1e-6)
    arm.run(-FORWARD, 5)  # and turn back at once: nothing has wound up
    assert arm.sent[-1][0] < 2.8


def test_joints_that_take_velocities_are_stopped_before_their_ends():
    arm = Arm('ur_forward_velocity', speed=1.0)
    end = arm.embodiment.action.position_high[0]
    arm.state[0] = end - 0.3
    for _ in range(60):
        arm.step(FORWARD)
        arm.state[0] += arm.sent[-1][0] / arm.embodiment.rate_hz
    assert arm.state[0] == pytest.approx(end, abs=1e-3) and arm.state[0] <= end + 1e-6


def test_the_hand_stays_in_its_workspace():
    arm = Arm(speed=1.0)
    x = 0.5
    for _ in range(30):
        arm.state[8] = x
        arm.step(FORWARD)
        x += arm.sent[-1][0]
    assert x == pytest.approx(arm.embodiment.action.workspace_high[0], abs=1e-3)


def test_who_lets_go_is_brought_to_rest_and_then_there_is_silence():
    arm = Arm('franka_servo', speed=1.0)  # has a limit of jerk
    arm.run(FORWARD, 20)
    count = len(arm.sent)
    rest = arm.run(None, 40)
    assert arm.sent[count][0] > 0.0, 'it stopped at once'
    spoken = [s for s in rest if s is not None]
    assert rest[len(spoken):] == [None] * (40 - len(spoken))
    assert [s.action[0] for s in spoken[-REST_STEPS:]] == [0.0] * REST_STEPS
    assert not arm.jogger.driving


def test_nobody_who_drives_means_nothing_is_said():
    arm = Arm()
    assert arm.run(None, 5) == [None] * 5


def test_the_gripper_closes_to_the_end_though_the_key_was_but_tapped():
    arm = Arm('franka_servo')
    arm.step(STILL)
    arm.jogger.toggle_gripper()
    arm.step(STILL)
    arm.run(None, 20)
    assert arm.sent[-1][6] == pytest.approx(0.0, abs=1e-9)
    arm.jogger.toggle_gripper()
    arm.run(STILL, 10)
    assert arm.sent[-1][6] == pytest.approx(1.0)


@pytest.mark.parametrize(('fingers', 'expected'), [(0.9, 1.0), (0.45, 0.0)])
def test_an_arm_that_was_told_nothing_keeps_its_fingers_open_or_closed(fingers, expected):
    arm = Arm()
    arm.state[7] = fingers
    arm.run(STILL, 5)
    assert arm.sent[-1][6] == expected


def test_what_a_policy_holds_is_not_dropped_although_its_fingers_are_apart():
    arm = Arm()
    arm.state[7] = 0.7  # a wide thing between them
    arm.jogger.follow(np.array([0, 0, 0, 0, 0, 0, 0.0]))
    arm.run(STILL, 5)
    assert {a[6] for a in arm.sent} == {0.0}
    arm.jogger.follow(np.ones(7))  # our own words, as they come back
    assert arm.jogger.opening == 0.0


def test_speed_changes_in_steps_between_its_bounds():
    jogger = Jogger(Embodiment.load('tabletop'), 0.3)
    jogger.change_speed(True)
    assert jogger.speed == pytest.approx(0.375)
    for _ in range(30):
        jogger.change_speed(True)
    assert jogger.speed == FASTEST
    for _ in range(60):
        jogger.change_speed(False)
    assert jogger.speed == SLOWEST


@pytest.mark.parametrize('speed', [0.0, 1.5, float('nan')])
def test_a_speed_that_makes_no_sense_is_refused(speed):
    with pytest.raises(ConfigError, match='speed'):
        Jogger(Embodiment.load('tabletop'), speed)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**32 - 1))
def test_whatever_sticks_do_the_limits_are_kept_and_in_the_end_it_rests(seed):
    rng = np.random.default_rng(seed)
    arm = Arm(EMBODIMENTS[seed % len(EMBODIMENTS)], speed=float(rng.uniform(SLOWEST, FASTEST)))
    arm.state[arm.joints] = rng.uniform()
    start = np.zeros(7)
    start[6] = float(arm.state[arm.joints] > 0.5)
    for _ in range(int(rng.integers(1, 8))):
        deflection = None if rng.random() < 0.3 else rng.uniform(-3, 3, 7).round()
        if rng.random() < 0.3:
            arm.jogger.toggle_gripper()
            start[6] = start[6] if arm.sent else arm.jogger.opening
        arm.run(deflection, int(rng.integers(1, 6)))
    for _ in range(200):
        if arm.step(None) is None:
            break
    assert not arm.jogger.driving
    if arm.sent:
        assert_within_limits(arm.embodiment, np.array(arm.sent), start)
