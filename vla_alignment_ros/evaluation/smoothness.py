"""How smoothly an arm was commanded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Smoothness:
    """Of the hand's commanded velocity, from rest: the smaller, the smoother."""

    peak_acceleration: float  # m/s²
    mean_jerk: float  # m/s³


def smoothness(actions: Sequence[np.ndarray], rate_hz: float) -> Smoothness:
    """Of `ee_delta` actions (N, 7), one per control step; N ≥ 1."""
    rest = np.zeros((1, 3))
    velocity = np.concatenate([rest, np.asarray(actions)[:, :3] * rate_hz])  # m/s
    acceleration = np.concatenate([rest, np.diff(velocity, axis=0) * rate_hz])
    jerk = np.diff(acceleration, axis=0) * rate_hz
    return Smoothness(
        float(np.linalg.norm(acceleration, axis=1).max()),
        float(np.linalg.norm(jerk, axis=1).mean()),
    )
