"""Commands come in parts; only whole ones for the right moment count."""

from __future__ import annotations

import numpy as np
import pytest

from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import WireError
from vla_alignment_ros.nodes.intake import CommandIntake

TWIST, GRIPPER = 'servo/delta_twist_cmds', 'gripper/command'
ACTION = np.array([0.01, -0.02, 0.03, 0.0, 0.0, 0.1, 0.0], np.float32)


@pytest.fixture
def codec():
    return make_codec(Embodiment.load('tabletop'))


@pytest.mark.parametrize('order', [(GRIPPER, TWIST), (TWIST, GRIPPER)])
def test_a_strict_command_is_whole_in_either_order(codec, order):
    intake = CommandIntake(codec, strict=True)
    raw = codec.encode(ACTION, 5)
    assert intake.push(order[0], raw[order[0]]) is None
    received = intake.push(order[1], raw[order[1]])
    assert received.ts_ns == 5
    np.testing.assert_allclose(received.action, ACTION, atol=1e-6)


def test_a_part_is_used_for_one_strict_command_only(codec):
    intake = CommandIntake(codec, strict=True)
    raw = codec.encode(ACTION, 5)
    intake.push(GRIPPER, raw[GRIPPER])
    assert intake.push(TWIST, raw[TWIST]) is not None
    assert intake.push(TWIST, codec.encode(ACTION, 6)[TWIST]) is None


def test_a_trigger_for_another_moment_joins_nothing(codec):
    intake = CommandIntake(codec, strict=True, wanted=lambda ts_ns: ts_ns == 7)
    old, new = codec.encode(-ACTION, 5), codec.encode(ACTION, 7)
    assert intake.push(TWIST, old[TWIST]) is None
    assert intake.unwanted == 1
    assert intake.push(GRIPPER, new[GRIPPER]) is None
    assert intake.push(TWIST, new[TWIST]).ts_ns == 7


def test_free_running_keeps_the_gripper_and_begins_open(codec):
    intake = CommandIntake(codec, strict=False)
    raw = codec.encode(ACTION, 5)
    assert intake.push(TWIST, raw[TWIST]).action[6] == 1.0
    assert intake.push(GRIPPER, raw[GRIPPER]) is None
    assert intake.push(TWIST, raw[TWIST]).action[6] == 0.0
    assert intake.push(TWIST, raw[TWIST]).action[6] == 0.0


def test_broken_bytes_are_named(codec):
    intake = CommandIntake(codec, strict=False)
    with pytest.raises(WireError):
        intake.push(TWIST, codec.encode(ACTION, 5)[TWIST][:40])
