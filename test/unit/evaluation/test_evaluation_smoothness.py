from __future__ import annotations

import numpy as np
import pytest

from vla_alignment_ros.evaluation.smoothness import smoothness


def actions_of(*speeds_m_s: float) -> list[np.ndarray]:
    """Along x and y alike, at 10 Hz; turning and gripper do not count."""
    return [np.array([v / 10, v / 10, 0, 1, 2, 3, v]) for v in speeds_m_s]


def test_acceleration_and_jerk_are_those_of_the_commanded_velocity_from_rest():
    found = smoothness(actions_of(0.1, 0.2, 0.3, 0.1), 10.0)
    along = np.sqrt(2)
    assert found.peak_acceleration == pytest.approx(2.0 * along)  # 0.2 m/s in 0.1 s
    assert found.mean_jerk == pytest.approx((10 + 0 + 0 + 30) / 4 * along)


def test_standing_still_is_smooth():
    found = smoothness(actions_of(0.0, 0.0), 10.0)
    assert (found.peak_acceleration, found.mean_jerk) == (0.0, 0.0)
