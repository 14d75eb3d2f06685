"""A person at the controls of an arm that a decision loop serves.

No ROS in here. What a person wants goes out in place of the policy's commands, and of all holds.
"""

from __future__ import annotations

from collections.abc import Callable
import time

import numpy as np

from vla_alignment_ros.control.buffer import ObservationBuffer
from vla_alignment_ros.control.intervention import Intervention
from vla_alignment_ros.control.measured import MeasuredArm
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.nodes.outlet import CommandOutlet


class Interventions:
    """Hands the arm of a pipeline to a person and back. Thread-safe.

    Args:
        pipeline: whose arm it is.
        buffer: knows where the arm is measured to be.
        outlet: where commands go out.
        timeout_s: a person who is silent for so long has let go.
        handed: is told True when a person takes the arm over, False when the policy has it.
    """

    def __init__(
        self,
        pipeline: DecisionPipeline,
        buffer: ObservationBuffer,
        outlet: CommandOutlet,
        timeout_s: float,
        handed: Callable[[bool], None],
    ) -> None:
        self.person = Intervention(timeout_s, handed)
        self.codec = pipeline.codec  # of a person's commands too
        self._pipeline, self._outlet = pipeline, outlet
        self._measured = MeasuredArm(buffer)

    def take(self, action: np.ndarray) -> None:
        """Take what a person wants (7,): they have the arm until they are silent.

        Raises:
            ControlError: it is not finite.
        """
        if self._outlet.is_open:
            self.person.take(action, time.monotonic_ns())

    def drives(self) -> bool:
        """Whether a person has the arm now; here they take over and let go."""
        return self.person.wish(time.monotonic_ns()) is not None

    def drive(self, ts_ns: int, answers: bool = True) -> bool:
        """Send what a person wants, if one drives; else the policy has the arm. Which it was."""
        steady_ns = time.monotonic_ns()
        wish = self.person.wish(steady_ns)
        if wish is None:
            self._pipeline.release()
            return False
        measured = self._measured.state(steady_ns, ts_ns)
        self._outlet.emit(self._pipeline.drive(ts_ns, wish, measured), answers)
        return True

    def opening(self) -> float | None:
        """How far the gripper is open, 1 = open: as commanded, else as measured, if either is."""
        opening = self._pipeline.opening()
        measured = self._measured.state(time.monotonic_ns()) if opening is None else None
        if measured is None:
            return opening
        return float(measured[1][len(self._pipeline.embodiment.joint_names)])
