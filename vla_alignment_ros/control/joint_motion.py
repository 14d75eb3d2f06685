"""Joint motion within position, velocity and acceleration limits, sampled at a fixed rate.

A velocity is held for one period. The bounds of the next one are such that every joint can always
come to rest before its end, braking no harder than its acceleration allows: so whoever stays
within them never has to break one limit to keep another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_alignment_ros.errors import ControlError

ROUNDING = 1e-12  # relative: what remains of a speed after so many equal steps is none


@dataclass(frozen=True)
class MotionLimits:
    """What joints may do, all (J,) float64: rad or m, per s, per s². Infinite ends are allowed."""

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    def __post_init__(self) -> None:
        if not (self.low < self.high).all():
            raise ControlError(f'joint limits leave no room: {self.low} … {self.high}')
        for name in ('velocity', 'acceleration'):
            values = getattr(self, name)
            if not (np.isfinite(values) & (values > 0)).all():
                raise ControlError(f'joint limits: {name} must be finite and above 0: {values}')


class JointMotion:
    """Where the joints are commanded to be, `position` and `velocity` (J,). No clock.

    Args:
        limits: that the motion keeps.
        period_s: for which a velocity is held.
    """

    def __init__(self, limits: MotionLimits, period_s: float) -> None:
        self.limits = limits
        self.period_s = period_s
        self._step = limits.acceleration * period_s  # most that a velocity changes in a period
        self.reset(np.zeros(len(limits.low)))

    def reset(self, position: np.ndarray) -> None:
        """Stand still at these positions (J,)."""
        self.position = np.array(position, dtype=np.float64)
        self.velocity = np.zeros_like(self.position)

    @property
    def at_rest(self) -> bool:
        """Whether nothing moves."""
        return not self.velocity.any()

    @property
    def periods_to_rest(self) -> int:
        """How many periods braking takes from here."""
        return int(np.ceil((np.abs(self.velocity) / self._step).max()))

    @property
    def rest_position(self) -> np.ndarray:
        """Where the joints (J,) come to rest if they brake as hard as they may from now on."""
        way = self.velocity * np.abs(self.velocity) / (2.0 * self.limits.acceleration)
        return self.position + way

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest velocity (J,) of the next period.

        What is beyond an end of its range may only come back.
        """
        below, above = self.room()
        low = np.maximum(np.maximum(self.velocity - self._step, -self.limits.velocity), -below)
        high = np.minimum(np.minimum(self.velocity + self._step, self.limits.velocity), above)
        # where a position was taken over in the midst of motion even that may be too much to ask
        brake = self.brake_each()
        return np.minimum(low, brake), np.maximum(high, brake)

    def room(self) -> tuple[np.ndarray, np.ndarray]:
        """Speeds (J,) from which each joint can just stop before its lower and its upper end."""
        return (
            self._fastest(self.position - self.limits.low),
            self._fastest(self.limits.high - self.position),
        )

    def _fastest(self, way: np.ndarray) -> np.ndarray:
        """Highest speed v for one period after which braking ends within `way` (J,).

        Braking takes v - s, v - 2 s … of a period's speed, s the step: with n = floor(v / s) the
        whole way is period * ((n + 1) v - s n (n + 1) / 2).
        """
        per_period = np.maximum(way, 0.0) / self.period_s
        steps = np.floor((np.sqrt(1.0 + 8.0 * per_period / self._step) - 1.0) / 2.0)
        steps = np.where(np.isfinite(steps), steps, 0.0)
        return per_period / (steps + 1.0) + self._step * steps / 2.0

    def brake_each(self) -> np.ndarray:
        """The next velocity (J,) where every joint brakes as hard as it may."""
        speed = np.maximum(np.abs(self.velocity) - self._step, 0.0)
        speed[speed < ROUNDING * self._step] = 0.0
        return np.sign(self.velocity) * speed

    def brake_together(self) -> np.ndarray:
        """The next velocity (J,) on the way to rest in which all joints slow down alike.

        So the hand stays on its way while it stops. It takes as long as the joint that needs
        longest would alone.
        """
        speed = np.abs(self.velocity)
        moving = speed > 0.0
        if not moving.any():
            return self.velocity.copy()
        share = float((self._step[moving] / speed[moving]).min()) + ROUNDING
        return np.clip(self.velocity * max(0.0, 1.0 - share), *self.bounds())

    def advance(self, velocity: np.ndarray) -> None:
        """Hold a velocity (J,) within `bounds()` for one period."""
        self.velocity = np.array(velocity, dtype=np.float64)
        self.position = self.position + self.velocity * self.period_s
