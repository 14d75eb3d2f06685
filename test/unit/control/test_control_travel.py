from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.control.travel import KEPT_COMMANDS, Travel

STEP_NS = 100_000_000
START_NS = 1_700_000_000_123_456_789  # a time of day: too large for a float to count ns


def at(step: float) -> int:
    return START_NS + round(step * STEP_NS)


def along_x(travel: Travel, step: float) -> float:
    return float(travel.since(at(step))[0])


def test_before_any_command_nothing_has_moved():
    assert Travel(10.0).since(at(0)).tolist() == [0, 0, 0]


def test_what_was_commanded_after_a_measurement_is_added_up():
    travel = Travel(10.0)
    for step in range(4):
        travel.add(at(step), np.array([0.01, 0.0, -0.02]))
    assert travel.since(at(4)).tolist() == [0, 0, 0]  # in lock-step: not even a rounding
    np.testing.assert_allclose(travel.since(at(2)), [0.02, 0, -0.04], atol=1e-12)
    assert along_x(travel, -7) == pytest.approx(0.04)


def test_a_command_moves_evenly_for_one_period():
    travel = Travel(10.0)
    travel.add(at(0), np.array([0.01, 0, 0]))
    travel.add(at(5), np.array([0.03, 0, 0]))  # nothing was said in between
    assert along_x(travel, 0.25) == pytest.approx(0.0375)
    assert along_x(travel, 3) == pytest.approx(0.03)
    assert along_x(travel, 5.5) == pytest.approx(0.015)


def test_a_clock_that_was_set_back_begins_anew():
    travel = Travel(10.0)
    travel.add(at(50), np.array([0.5, 0, 0]))
    travel.add(at(0), np.array([0.01, 0, 0]))
    assert along_x(travel, 0) == pytest.approx(0.01)


@given(st.integers(0, 3 * KEPT_COMMANDS), st.integers(0, KEPT_COMMANDS - 1))
def test_history_is_bounded_and_long_enough(count, back):
    travel = Travel(10.0)
    for step in range(count):
        travel.add(at(step), np.array([0.01, 0, 0]))
    back = min(back, count)
    assert along_x(travel, count - back) == pytest.approx(0.01 * back)
    assert len(travel._times) == 4 * KEPT_COMMANDS


@given(st.lists(st.floats(-0.49, 0.49), min_size=2, max_size=30))
def test_ticks_that_jitter_lose_no_motion(jitter):
    travel = Travel(10.0)
    for step, off in enumerate(jitter):
        travel.add(at(step + off), np.array([0.01, 0, 0]))
    assert along_x(travel, -1) == pytest.approx(0.01 * len(jitter))
    assert along_x(travel, len(jitter) + 1) == 0.0
