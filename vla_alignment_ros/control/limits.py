"""Positions that an action moves but does not name, and how far they may go.

A velocity says nothing about where the arm is: that has to be measured, and what was commanded
since has to be added. For `ee_delta` it is the hand in its workspace box; for `joint_velocity` it
is the joints, within `action.position_low` and `position_high`, or what the URDF allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_alignment_ros.embodiment import Embodiment, resolve_resource
from vla_alignment_ros.kinematics import ForwardKinematics


@dataclass(frozen=True)
class Bounded:
    """The first n dimensions of an action, as positions that have bounds."""

    low: np.ndarray  # (n,) m or rad; infinite where there is no limit
    high: np.ndarray  # (n,)
    first: int | None  # where the positions begin in Observation.state; None: it has not got them
    way: float  # that an action of 1 goes in one control step

    def measured(self, state: np.ndarray) -> np.ndarray:
        """Positions (n,) float64 out of a state (S,)."""
        return np.asarray(state[self.first : self.first + len(self.low)], dtype=np.float64)


def bounded_positions(embodiment: Embodiment) -> Bounded | None:
    """What is bounded on this robot; None where nothing is.

    Raises EmbodimentError where a URDF is named and does not load.
    """
    spec = embodiment.action
    if spec.space == 'ee_delta' and spec.workspace_low is not None:
        framed = embodiment.urdf is not None and spec.frame == embodiment.base_link
        first = len(embodiment.joint_names) + 1 if framed else None
        return Bounded(np.array(spec.workspace_low), np.array(spec.workspace_high), first, 1.0)
    if spec.space != 'joint_velocity':
        return None
    low, high = spec.position_low, spec.position_high
    if low is None:
        if embodiment.urdf is None:
            return None
        limits = ForwardKinematics(
            resolve_resource(embodiment.urdf),
            embodiment.joint_names,
            embodiment.base_link,
            str(embodiment.ee_link),
        ).limits()
        low, high = limits.low, limits.high
    return Bounded(np.array(low), np.array(high), 0, 1.0 / embodiment.rate_hz)


def unguarded(embodiment: Embodiment, bounded: Bounded | None) -> str:
    """Limits of an embodiment that cannot be kept, and why; empty where all are.

    bounded: its `bounded_positions`.
    """
    spec = embodiment.action
    if spec.space == 'joint_velocity' and bounded is None:
        return (
            'the joints are stopped at no position: give action.position_low and position_high, '
            'or a `urdf`'
        )
    if spec.workspace_low is not None and spec.space != 'ee_delta':
        return 'the workspace box is not enforced: it is for action.space ee_delta only'
    if bounded is not None and bounded.first is None:
        return (
            'the workspace box is not enforced: where the hand is follows from a `urdf`, and '
            f'action.frame must be base_link ({embodiment.base_link})'
        )
    return ''
