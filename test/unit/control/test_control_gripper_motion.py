from __future__ import annotations

import math

import pytest

from vla_alignment_ros.control.gripper_motion import GripperMotion
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ControlError


@pytest.fixture
def gripper() -> GripperMotion:
    """Opens to 0.04 m, at most 20 openings a second."""
    return GripperMotion(Embodiment.load('tabletop'), period_s=0.01)


def test_it_moves_no_faster_than_the_embodiment_allows(gripper):
    gripper.measure(0.04)
    gripper.command(0.0)
    positions = [gripper.step() for _ in range(6)]
    assert positions == pytest.approx([0.032, 0.024, 0.016, 0.008, 0.0, 0.0])


def test_without_a_command_it_stays_where_it_was_measured(gripper):
    assert gripper.step() is None
    gripper.measure(0.03)
    gripper.measure(0.01)  # it is held, whatever it does by itself
    assert gripper.step() == pytest.approx(0.03)


def test_where_it_is_unknown_it_begins_at_the_command(gripper):
    gripper.measure(math.nan)
    gripper.command(0.25)
    assert gripper.step() == pytest.approx(0.01)


def test_a_command_beyond_its_range_is_the_nearest_within(gripper):
    gripper.command(7.0)
    assert gripper.step() == pytest.approx(0.04)


def test_a_command_that_is_not_finite_is_refused_and_the_last_one_stands(gripper):
    gripper.command(0.5)
    with pytest.raises(ControlError, match='not finite'):
        gripper.command(math.nan)
    assert gripper.step() == pytest.approx(0.02)
