"""What messages say, as numpy: the results of the decoders in `wire`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_alignment_ros.errors import WireError


@dataclass(frozen=True)
class ImageFrame:
    """A camera image: (H, W, 3) uint8 RGB, and when and where it was taken."""

    ts_ns: int
    frame_id: str
    image: np.ndarray


@dataclass(frozen=True)
class JointSample:
    """One `sensor_msgs/JointState`; velocity and effort are empty when not reported."""

    ts_ns: int
    names: tuple[str, ...]
    position: np.ndarray  # (J,) float64, rad or m
    velocity: np.ndarray  # (J,) or (0,)
    effort: np.ndarray  # (J,) or (0,)

    def take(self, names: Sequence[str]) -> np.ndarray:
        """Positions (N,) of these joints, whatever the order of the message.

        Raises:
            WireError: it has no position for one of them.
        """
        index = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in index]
        if missing or not len(self.position):
            raise WireError(
                f'joint state lacks a position for {", ".join(missing) or "every joint"}; '
                f'it names {", ".join(self.names) or "none"}'
            )
        return self.position[[index[name] for name in names]]


@dataclass(frozen=True)
class JoySample:
    """One `sensor_msgs/Joy`: how far axes are pushed, and which buttons are pressed."""

    ts_ns: int
    axes: np.ndarray  # (A,) float32, −1…1
    buttons: np.ndarray  # (B,) int32, 0 or 1


@dataclass(frozen=True)
class TwistSample:
    """One `geometry_msgs/TwistStamped`: m/s and rad/s in `frame_id`."""

    ts_ns: int
    frame_id: str
    linear: np.ndarray  # (3,)
    angular: np.ndarray  # (3,)


@dataclass(frozen=True)
class TrajectorySample:
    """One `trajectory_msgs/JointTrajectory` with P points of J positions."""

    ts_ns: int
    frame_id: str
    names: tuple[str, ...]
    positions: np.ndarray  # (P, J)
    time_from_start_s: np.ndarray  # (P,)
