"""Which positions of a robot are bounded, from its description or from its URDF."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from motion_limits import make_embodiment, RANGE, RATE_HZ
import numpy as np
import pytest
from scripted_policy import ScriptedPolicy

from vla_alignment_ros.control.decisions import PipelineConfig
from vla_alignment_ros.control.limits import bounded_positions, unguarded
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import EmbodimentError
from vla_alignment_ros.observation import Observation

STEP_NS = 100_000_000
EXPLICIT = {'position_low': tuple(RANGE[0]), 'position_high': tuple(RANGE[1])}


def urdf_of(kinds: list[str]) -> str:
    """A chain of joints j0, j1, … of these kinds, each within -1 … 0.5."""
    parts = ['<robot name="chain"><link name="base_link"/>']
    before = 'base_link'
    for i, kind in enumerate(kinds):
        parts.append(
            f'<joint name="j{i}" type="{kind}"><parent link="{before}"/><child link="l{i}"/>'
            f'<axis xyz="0 0 1"/><limit lower="-1" upper="0.5" velocity="2" effort="1"/></joint>'
            f'<link name="l{i}"/>'
        )
        before = f'l{i}'
    return '\n'.join([*parts, '</robot>'])


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a joint_velocity robot that a URDF describes."""
    monkeypatch.chdir(tmp_path)

    def make(**limits) -> Embodiment:
        kinds = ['revolute', 'continuous', 'prismatic', 'revolute', 'revolute', 'revolute']
        (tmp_path / 'arm.urdf').write_text(urdf_of(kinds))
        robot = make_embodiment('joint_velocity', **limits)
        return dataclasses.replace(robot, urdf='arm.urdf', ee_link='l5')

    return make


def test_joints_are_bounded_as_the_urdf_says(described):
    bounded = bounded_positions(described())
    np.testing.assert_array_equal(bounded.low, [-1, -np.inf, -1, -1, -1, -1])
    np.testing.assert_array_equal(bounded.high, [0.5, np.inf, 0.5, 0.5, 0.5, 0.5])
    assert bounded.way == pytest.approx(1 / RATE_HZ)
    np.testing.assert_array_equal(bounded.measured(np.arange(20.0)), np.arange(6.0))


def test_what_the_embodiment_says_counts_more_than_the_urdf(described):
    bounded = bounded_positions(described(**EXPLICIT))
    np.testing.assert_array_equal([bounded.low, bounded.high], RANGE)


def said(robot: Embodiment) -> str:
    return unguarded(robot, bounded_positions(robot))


def test_joints_that_nothing_bounds_are_said():
    robot = make_embodiment('joint_velocity')
    assert bounded_positions(robot) is None
    assert 'action.position_low' in said(robot) and 'urdf' in said(robot)
    assert said(make_embodiment('joint_velocity', **EXPLICIT)) == ''
    assert said(make_embodiment('joint_position')) == ''
    assert said(Embodiment.load('ur_forward_velocity')) == ''


@pytest.mark.parametrize(
    ('space', 'limits', 'message'),
    [
        ('joint_velocity', {'position_low': (0.0,) * 6}, 'both action.position_low'),
        ('joint_velocity', {**EXPLICIT, 'position_low': (1.0,) * 6}, 'below'),
        ('joint_velocity', {**EXPLICIT, 'position_low': (0.0,) * 7}, '6 values'),
        ('joint_position', EXPLICIT, 'for joint_velocity; joint_position has low and high'),
        ('ee_delta', EXPLICIT, 'for joint_velocity'),
    ],
)
def test_ranges_that_cannot_be_meant_are_refused(space, limits, message):
    with pytest.raises(EmbodimentError, match=message):
        make_embodiment(space, **limits)


@pytest.mark.parametrize('late', [0, 3])
@pytest.mark.parametrize('limits', [EXPLICIT, {}])
def test_a_joint_does_not_leave_its_range_however_late_it_is_measured(described, late, limits):
    """The arm goes on during inference; the range must hold for where it is by then."""
    limits = limits | {'max_velocity': (0.8,) * 7, 'max_acceleration': (1.0,) * 7}
    robot = described(**limits)
    high = bounded_positions(robot).high[0]
    policy = ScriptedPolicy([2.0, 0, 0, 0, 0, 0, 1], horizon=9)
    config = PipelineConfig(confirm=1, max_gap_s=9.0)
    pipeline = DecisionPipeline(robot, policy, config)
    joint = [-0.3]
    for step in range(40):
        state = np.array([joint[max(0, len(joint) - 1 - late)], 0, 0, 0, 0, 0, 1, 0, 0, 0])
        then_ns = 10**9 + (step - late) * STEP_NS
        pipeline.decide(Observation(then_ns, {}, state, 'turn'))
        command = pipeline.command(10**9 + step * STEP_NS)
        joint.append(joint[-1] + command.action[0] / RATE_HZ)
    assert max(joint) <= high + 1e-6
    assert joint[-1] == pytest.approx(high, abs=5e-3)
    assert np.diff(joint).max() * RATE_HZ > 0.5  # it did not creep there
