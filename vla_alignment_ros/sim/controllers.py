"""The simulated arm's joint controllers, as ros2_control runs them on a real one.

A trajectory is followed as joint_trajectory_controller does by default: from where the arm is
commanded to be when it arrives, straight from point to point, each reached at its
`time_from_start`; then the last position is held. The forward controllers pass on what came last
and have no time-out: velocities are kept until others come.
"""

from __future__ import annotations

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.joint_commands import (
    COMMAND_TOPICS,
    GRIPPER_TOPIC,
    TRAJECTORY,
    VELOCITY,
)
from vla_alignment_ros.embodiment import Embodiment, FLOAT64_MULTI_ARRAY
from vla_alignment_ros.errors import ControlError


class JointControllers:
    """The arm's controller and the gripper's. Positions are (J + 1,): arm joints, gripper joint.

    Args:
        embodiment: whose joints, in the order in which they are commanded.
        interface: one of `control.joint_commands.INTERFACES`.
    """

    def __init__(self, embodiment: Embodiment, interface: str) -> None:
        self._topic, msgtype = COMMAND_TOPICS[interface]
        self.topics = {self._topic: msgtype, GRIPPER_TOPIC: FLOAT64_MULTI_ARRAY}
        self._interface = interface
        self._gripper = embodiment.gripper
        self._arm = embodiment.joint_names
        self._names = (*self._arm, embodiment.gripper.joint)
        self.reset(np.zeros(len(self._names)))

    def reset(self, position: np.ndarray) -> None:
        """Hold these positions (J + 1,)."""
        self._target = np.array(position, dtype=np.float64)
        self._velocity = np.zeros(len(self._arm))
        self._times = np.zeros(1)  # s
        self._points = self._target[None]  # (P, J + 1)

    def take(self, topic: str, raw: bytes, now_s: float) -> None:
        """Take a command.

        Raises:
            WireError, ControlError: it is none for these joints, or not finite; nothing changes.
        """
        if topic == GRIPPER_TOPIC:
            self._target[-1] = self._points[:, -1] = _finite(raw, 1, 'the gripper')[0]
        elif self._interface == TRAJECTORY:
            self._follow(wire.decode_joint_trajectory(raw), now_s)
        elif self._interface == VELOCITY:
            self._velocity = _finite(raw, len(self._arm), self._topic)
        else:
            self._target[:-1] = _finite(raw, len(self._arm), self._topic)

    def advance(self, now_s: float, period_s: float) -> tuple[np.ndarray, float]:
        """One period from now_s on: arm positions (J,) and gripper opening at its end."""
        if self._interface == TRAJECTORY:
            end_s = now_s + period_s
            self._target = self._sample(end_s)
        elif self._interface == VELOCITY:
            self._target[:-1] += self._velocity * period_s
        return self._target[:-1].copy(), self._gripper.opening(self._target[-1])

    def stopped_at(self, position: np.ndarray) -> None:
        """Positions (J,) that a joint could not leave: at the end of its range it stays there."""
        self._target[:-1] = position  # a trajectory goes on as it was planned

    def _sample(self, time_s: float) -> np.ndarray:
        columns = self._points.T
        return np.array([np.interp(time_s, self._times, column) for column in columns])

    def _follow(self, sample: wire.TrajectorySample, now_s: float) -> None:
        names, whole = set(sample.names), len(set(sample.names)) == len(sample.names)
        if not whole or not set(self._arm) <= names <= set(self._names):
            raise ControlError(
                f'a trajectory moves {", ".join(self._arm)}, and may move '
                f'{self._names[-1]}; this one names {", ".join(sample.names) or "none"}'
            )
        times = sample.time_from_start_s
        ordered = len(times) and (np.diff(times) > 0).all()
        if not (ordered and np.isfinite(sample.positions).all()):
            raise ControlError('a trajectory has finite points, each later than the one before')
        start_s = sample.ts_ns * 1e-9 or now_s
        if start_s + times[-1] < now_s:
            raise ControlError(
                f'the trajectory ended {now_s - start_s - times[-1]:.2f} s ago: stamp it with the '
                'time it is sent, or with 0'
            )
        points = np.repeat(self._sample(now_s)[None], len(times) + 1, axis=0)
        order = [self._names.index(name) for name in sample.names]
        points[1:, order] = sample.positions
        later = np.append(True, start_s + times > now_s)
        self._times = np.append(max(start_s, now_s), start_s + times)[later]
        self._points = points[later]


def _finite(raw: bytes, count: int, what: str) -> np.ndarray:
    values = np.array(wire.decode_float64_multi_array(raw), dtype=np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ControlError(f'{what} takes {count} finite numbers, got {values}')
    return values
