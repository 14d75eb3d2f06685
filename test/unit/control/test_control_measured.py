"""Where the arm is: known only from joint states that are whole, fresh and of the same clock."""

from __future__ import annotations

import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.control.buffer import ObservationBuffer
from vla_alignment_ros.control.measured import MeasuredArm
from vla_alignment_ros.embodiment import Embodiment

S = 1_000_000_000
STAMP_NS, CAME_NS = 50 * S, 3 * S
POSITIONS = np.array([0, 0.3, 0, -1.8, 0, 2.1, 0.8, 0.02])


class Arm:
    def __init__(self) -> None:
        self.embodiment = Embodiment.load('tabletop')
        self.buffer = ObservationBuffer(self.embodiment)
        self.measured = MeasuredArm(self.buffer)

    def say(self, names: tuple[str, ...], positions: np.ndarray) -> None:
        raw = wire.encode_joint_state(STAMP_NS, names, positions)
        self.buffer.push('joint_states', raw, CAME_NS, STAMP_NS)


@pytest.fixture
def arm() -> Arm:
    made = Arm()
    made.say((*made.embodiment.joint_names, 'finger_joint'), POSITIONS)
    return made


def test_the_state_comes_with_its_stamp(arm):
    stamp, state = arm.measured.state(CAME_NS + S // 10, STAMP_NS + S // 10)
    assert stamp == STAMP_NS
    np.testing.assert_allclose(state[:8], [*POSITIONS[:7], 0.5], atol=1e-6)
    assert arm.measured.unknown(CAME_NS, STAMP_NS) == ''


@pytest.mark.parametrize(
    ('steady_ns', 'ts_ns', 'why'),
    [
        (CAME_NS + S, STAMP_NS, 'joint_states are 1.00 s old'),
        (CAME_NS, STAMP_NS + S, 'set use_sim_time'),
        (CAME_NS, STAMP_NS - S, 'set use_sim_time'),
    ],
)
def test_what_is_old_or_of_another_clock_is_not_known_and_why(arm, steady_ns, ts_ns, why):
    assert arm.measured.state(steady_ns, ts_ns) is None
    assert why in arm.measured.unknown(steady_ns, ts_ns)


def test_without_a_time_to_compare_with_any_clock_will_do(arm):
    assert arm.measured.state(CAME_NS) is not None


def test_nothing_and_what_cannot_be_read_is_not_known_and_why():
    arm = Arm()
    assert arm.measured.state(CAME_NS) is None
    assert arm.measured.unknown(CAME_NS) == 'no joint_states yet'
    arm.say(('finger_joint',), POSITIONS[:1])
    assert arm.measured.state(CAME_NS) is None
    assert 'lacks a position for joint1' in arm.measured.unknown(CAME_NS)
