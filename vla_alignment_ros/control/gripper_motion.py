"""The gripper beside a servoed arm: commanded as an opening, moved as a joint."""

from __future__ import annotations

import math

import numpy as np

from vla_alignment_ros.control.codecs import GRIPPER
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ControlError


class GripperMotion:
    """Follows the commanded opening (1 open, 0 closed). Not thread-safe, no clock.

    The embodiment's `max_velocity` of the gripper limits it, where there is one.
    """

    def __init__(self, embodiment: Embodiment, period_s: float) -> None:
        limits = embodiment.action.max_velocity
        self._most = math.inf if limits is None else limits[GRIPPER] * period_s
        self._gripper = embodiment.gripper
        self.reset()

    def reset(self) -> None:
        """Forget what was commanded and where the gripper is."""
        self._opening: float | None = None
        self._goal: float | None = None

    def measure(self, position: float) -> None:
        """Take the measured position of the gripper joint: motion begins from there."""
        if self._opening is None and math.isfinite(position):
            self._opening = float(np.clip(self._gripper.opening(position), 0.0, 1.0))

    def command(self, opening: float) -> None:
        """Take the opening that is wanted; beyond 0 … 1 it is the nearest.

        Raises:
            ControlError: it is not finite; the last one stands.
        """
        if not math.isfinite(opening):
            raise ControlError(f'the gripper command is not finite: {opening}')
        self._goal = min(max(opening, 0.0), 1.0)

    def step(self) -> float | None:
        """One period on: the position of the gripper joint; None before it is known.

        Without a command it stays where it was measured.
        """
        if self._goal is not None:
            begin = self._goal if self._opening is None else self._opening
            self._opening = begin + min(max(self._goal - begin, -self._most), self._most)
        return None if self._opening is None else self._gripper.position(self._opening)
