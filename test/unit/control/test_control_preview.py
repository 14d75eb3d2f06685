"""Where a chunk would take the hand, for every action space."""

from __future__ import annotations

import dataclasses

import cv2
from hypothesis import given, settings, strategies
from hypothesis.extra import numpy as arrays
import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.control.decisions import Verdict
from vla_alignment_ros.control.preview import ChunkPreview, GATE_COLORS, MARKER_ARRAY
from vla_alignment_ros.embodiment import CommandSpec, Embodiment
from vla_alignment_ros.errors import ControlError
from vla_alignment_ros.kinematics import ForwardKinematics
from vla_alignment_ros.observation import ActionChunk
from vla_alignment_ros.resources import resolve_resource

TABLETOP = Embodiment.load('tabletop')
HOME_RAD = np.array([0.2, -0.4, 0.1, -2.4, 0.1, 1.9, 0.3])
HAND = ForwardKinematics(
    resolve_resource(TABLETOP.urdf), TABLETOP.joint_names, TABLETOP.base_link, TABLETOP.ee_link
)
deltas = arrays.arrays(float, (5, 7), elements=strategies.floats(-0.05, 0.05))


def robot(space: str, frame: str = 'base_link') -> Embodiment:
    """The tabletop arm with another action space."""
    action = dataclasses.replace(TABLETOP.action, space=space, frame=frame)
    command = TABLETOP.command
    if space != 'ee_delta':
        command = CommandSpec('multi_array', {'command': 'arm/commands'})
    return dataclasses.replace(TABLETOP, action=action, command=command)


def state() -> np.ndarray:
    return np.concatenate([HOME_RAD, [1.0]]).astype(np.float32)


@settings(max_examples=20)
@given(deltas)
def test_deltas_in_the_base_frame_add_up_from_where_the_hand_is(actions):
    path = ChunkPreview(TABLETOP).path(state(), actions)
    assert path[0] == pytest.approx(HAND(HOME_RAD)[0], abs=1e-6)
    assert np.diff(path, axis=0) == pytest.approx(actions[:, :3], abs=1e-12)


def test_deltas_in_the_hands_frame_turn_with_the_hand():
    position, rotation = HAND(HOME_RAD)
    actions = np.zeros((3, 7))
    actions[:, 2] = 0.02  # along the tool …
    actions[0, 3] = 0.5  # … which is turned about its x after the first step
    path = ChunkPreview(robot('ee_delta', 'tool0')).path(state(), actions)
    after = rotation @ cv2.Rodrigues(np.array([0.5, 0.0, 0.0]))[0]
    expected = np.cumsum([position, 0.02 * rotation[:, 2], 0.02 * after[:, 2]], axis=0)
    assert path[:3] == pytest.approx(expected, abs=1e-6)
    assert path[3] - path[2] == pytest.approx(0.02 * after[:, 2], abs=1e-6)


def test_joint_positions_lead_where_the_arm_would_be():
    actions = HOME_RAD + np.linspace(0.0, 0.3, 4)[:, None]
    path = ChunkPreview(robot('joint_position')).path(state(), actions)
    assert path[1:] == pytest.approx(np.array([HAND(row)[0] for row in actions]), abs=1e-9)


def test_joint_velocities_are_held_for_a_control_period_each():
    actions = np.full((4, 7), 0.5)  # rad/s
    path = ChunkPreview(robot('joint_velocity')).path(state(), actions)
    after = HAND(HOME_RAD + 4 * 0.5 / TABLETOP.rate_hz)[0]
    assert path[-1] == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize(
    'changed', [{'urdf': None, 'ee_link': None}, {'action': robot('ee_delta', 'map').action}]
)
def test_where_nobody_knows_where_the_hand_goes_it_says_so(changed):
    with pytest.raises(ControlError, match='cannot say where a chunk leads'):
        ChunkPreview(dataclasses.replace(TABLETOP, **changed))


@pytest.mark.parametrize('gate', list(GATE_COLORS))
def test_markers_show_path_gate_and_gripper(gate):
    actions = np.zeros((3, 7), np.float32)
    actions[:, 0] = 0.01
    actions[:, 6] = [1.0, 0.5, 0.0]
    chunk = ActionChunk(5_000_000_007, actions, TABLETOP.rate_hz)
    verdict = Verdict(
        ts_ns=chunk.ts_ns, instruction='push it', vl_score=0.75, action_score=0.5, margin=0.1,
        gate=gate, refused=None, outdated=False, chunk=chunk, latency_s=0.01,
    )  # fmt: skip
    preview = ChunkPreview(TABLETOP)
    raw = preview.markers(state(), verdict)
    line, steps, words = wire.decode(raw, MARKER_ARRAY).markers
    path = preview.path(state(), actions)
    assert [[p.x, p.y, p.z] for p in line.points] == pytest.approx(path)
    assert [[p.x, p.y, p.z] for p in steps.points] == pytest.approx(path[1:])
    assert (line.color.r, line.color.g, line.color.b) == pytest.approx(GATE_COLORS[gate])
    reds = [color.r for color in steps.colors]
    assert reds == sorted(reds, reverse=True)
    assert len(set(reds)) == 3
    assert words.text == f'push it\n{gate} 0.75'
    for marker in (line, steps, words):
        assert marker.header.frame_id == 'base_link'
        stamp = marker.header.stamp
        assert (stamp.sec, stamp.nanosec) == (5, 7)
        assert marker.lifetime.sec > 0
        assert marker.pose.orientation.w == 1.0
    assert len({marker.id for marker in (line, steps, words)}) == 3
