"""Joint motion: whoever stays within the bounds of each period never breaks a limit."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.control.joint_motion import JointMotion, MotionLimits
from vla_alignment_ros.errors import ControlError

ROUNDING = 1e-9
EXTREMES = st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0)


def make(velocity=1.0, acceleration=5.0, low=-1.0, high=1.0, period_s=0.01) -> JointMotion:
    limits = (np.full(3, float(v)) for v in (low, high, velocity, acceleration))
    return JointMotion(MotionLimits(*limits), period_s)


@settings(max_examples=60, deadline=None)
@given(
    velocity=st.floats(0.05, 5.0),
    acceleration=st.floats(0.3, 60.0),
    period_s=st.floats(0.002, 0.1),
    start=st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3),
    wishes=st.lists(st.lists(EXTREMES, min_size=3, max_size=3), min_size=1, max_size=120),
    together=st.booleans(),
)
def test_no_limit_is_ever_broken(velocity, acceleration, period_s, start, wishes, together):
    motion = make(velocity, acceleration, period_s=period_s)
    motion.reset(np.array(start))
    before = motion.velocity

    def check() -> None:
        assert (np.abs(motion.position) <= 1.0 + ROUNDING).all()
        assert (np.abs(motion.velocity) <= velocity * (1.0 + ROUNDING)).all()
        change = np.abs(motion.velocity - before)
        assert (change <= acceleration * period_s * (1.0 + ROUNDING)).all()

    for shares in wishes:
        low, high = motion.bounds()
        assert (low <= high).all()
        before = motion.velocity
        motion.advance(low + np.array(shares) * (high - low))
        check()
    for _ in range(motion.periods_to_rest):
        before = motion.velocity
        motion.advance(motion.brake_together() if together else motion.brake_each())
        check()
    assert (np.abs(motion.velocity) < ROUNDING).all()


def test_the_fastest_way_to_an_end_uses_all_of_it():
    motion = make(acceleration=5.0)
    for _ in range(300):
        motion.advance(motion.bounds()[1])
    np.testing.assert_allclose(motion.position, 1.0, atol=ROUNDING)


def test_braking_together_keeps_the_proportions():
    motion = make(velocity=3.0)
    motion.velocity = np.array([0.4, -0.2, 0.1])
    shares = []
    while not motion.at_rest:
        motion.advance(motion.brake_together())
        shares.append(motion.velocity / np.array([0.4, -0.2, 0.1]))
    assert len(shares) == 8  # 0.4 rad/s at 5 rad/s²: 0.08 s
    np.testing.assert_allclose(shares, np.repeat(np.array(shares)[:, :1], 3, axis=1), atol=1e-12)


def test_it_says_where_it_would_come_to_rest():
    motion = make(velocity=3.0, low=-9.0, high=9.0, period_s=0.001)
    motion.velocity = np.array([2.0, -1.0, 0.0])
    expected = motion.rest_position
    while not motion.at_rest:
        motion.advance(motion.brake_each())
    np.testing.assert_allclose(motion.position, expected, atol=2e-3)


def test_joints_without_ends_turn_for_ever():
    motion = make(low=-np.inf, high=np.inf)
    for _ in range(500):
        motion.advance(motion.bounds()[1])
    assert (motion.position > 4.0).all()


def test_a_position_taken_over_in_motion_brakes_as_hard_as_it_may():
    motion = make()
    motion.position, motion.velocity = np.full(3, 0.99), np.full(3, 1.0)
    low, high = motion.bounds()
    np.testing.assert_allclose([low, high], 0.95)  # it cannot stop in time: the least evil


@pytest.mark.parametrize(
    'limits, reason',
    [({'low': 1.0}, 'room'), ({'velocity': 0.0}, 'velocity'), ({'acceleration': np.inf}, 'acc')],
)
def test_limits_that_are_none_are_refused(limits, reason):
    with pytest.raises(ControlError, match=reason):
        make(**limits)
