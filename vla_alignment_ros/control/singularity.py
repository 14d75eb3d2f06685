"""Keeping an arm out of its singularities, as MoveIt Servo does it.

Near a singularity small motion of the hand takes large motion of joints. How near it is, is said
by the condition number of the Jacobian (linear rows in m, angular ones in rad).
"""

from __future__ import annotations

import numpy as np

from vla_alignment_ros.kinematics import ForwardKinematics

DAMPING = 1e-6  # of the joint motion that a twist is followed with to see where it leads
AHEAD_RAD = 1e-3  # how far it is followed


def condition_number(jacobian: np.ndarray) -> float:
    """Largest over smallest singular value of a Jacobian (6, J)."""
    values = np.linalg.svd(jacobian, compute_uv=False)
    return float(values[0] / max(values[-1], 1e-12))


class Singularity:
    """Slows what leads into a singularity from the condition number `slow` on, stops it at `stop`.

    What does not make the condition number larger is left as it is.
    """

    def __init__(self, kinematics: ForwardKinematics, slow: float, stop: float) -> None:
        self._kinematics = kinematics
        self._slow, self._stop = slow, stop

    def allowed(
        self, twist: np.ndarray, position: np.ndarray, jacobian: np.ndarray, condition: float
    ) -> tuple[np.ndarray, bool]:
        """The part of a twist (6,) that may be executed here, and whether that is less.

        position: (J,) of the joints, with its jacobian (6, J) and the condition number of that.
        Only the part of the twist along the singular direction is slowed; all of it, where the
        rest leads in as well.
        """
        if condition <= self._slow or not self._worse(twist, position, jacobian, condition):
            return twist, False
        share = (self._stop - condition) / (self._stop - self._slow)
        share = float(np.clip(share, 0.0, 1.0))
        inward = np.linalg.svd(jacobian)[0][:, min(jacobian.shape) - 1]  # moves the hand least
        less = twist - (1.0 - share) * (inward @ twist) * inward
        if self._worse(less, position, jacobian, condition):
            less = twist * share
        return less, True

    def _worse(
        self, twist: np.ndarray, position: np.ndarray, jacobian: np.ndarray, condition: float
    ) -> bool:
        """Whether a twist makes the condition number larger."""
        damped = jacobian @ jacobian.T + DAMPING * np.eye(6)
        way = jacobian.T @ np.linalg.solve(damped, twist)  # (J,)
        length = float(np.linalg.norm(way))
        if length < 1e-12:
            return False
        ahead = position + way * (AHEAD_RAD / length)
        return condition_number(self._kinematics.pose_and_jacobian(ahead)[2]) > condition
