"""Where a fixed camera is and how it projects, for those cameras that are calibrated.

A calibration is optional. With it, the pose that a demonstration's hand reaches next is a point
in the image, and training can tell the words' attention where to look without any label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_alignment_ros.errors import EmbodimentError


@dataclass(frozen=True)
class Pinhole:
    """A pinhole camera that does not move in the base frame.

    The pose is that of the optical frame in `base_link` (REP-103: z forward, x right, y down);
    focal lengths and centre are pixels of the image at the camera's `width` × `height`.
    """

    position: tuple[float, ...]  # (3,) m
    quaternion: tuple[float, ...]  # (4,) x, y, z, w
    focal: tuple[float, ...]  # (2,) fx, fy
    centre: tuple[float, ...]  # (2,) cx, cy

    def __post_init__(self) -> None:
        for name, length in (('position', 3), ('quaternion', 4), ('focal', 2), ('centre', 2)):
            value: Any = getattr(self, name)
            try:
                numbers = tuple(float(v) for v in value)
            except (TypeError, ValueError):
                numbers = ()
            if len(numbers) != length or not np.isfinite(numbers).all():
                raise EmbodimentError(f'calibration.{name} needs {length} numbers, got {value!r}')
            object.__setattr__(self, name, numbers)
        if abs(np.linalg.norm(self.quaternion) - 1) > 1e-2:
            raise EmbodimentError(f'calibration.quaternion is not a unit one: {self.quaternion}')
        if min(self.focal) <= 0:
            raise EmbodimentError(f'calibration.focal must be positive, got {self.focal}')

    def rotation(self) -> np.ndarray:
        """Axes of the optical frame in the base frame, as columns (3, 3)."""
        x, y, z, w = np.asarray(self.quaternion) / np.linalg.norm(self.quaternion)
        return np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ])  # fmt: skip

    def projection(self, width: int, height: int) -> np.ndarray:
        """(3, 4): homogeneous base-frame points → (u·w, v·w, w), u and v in −1…1 over the image.

        w is the distance along the optical axis (m); a point with w ≤ 0 is behind the camera.
        """
        inward = self.rotation().T
        extrinsic = np.hstack([inward, -inward @ np.reshape(self.position, (3, 1))])  # (3, 4)
        (fx, fy), (cx, cy) = self.focal, self.centre
        pixels = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        unit = np.array([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
        return unit @ pixels @ extrinsic
