"""A servoed arm that does exactly what it is commanded, and what it was commanded."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vla_alignment_ros.control.servo import Servo, ServoConfig, ServoStep
from vla_alignment_ros.embodiment import Embodiment, resolve_resource
from vla_alignment_ros.kinematics import ForwardKinematics

BASE, HAND = 'base_link', 'tool0'
# the hand 0.15 m above the table, pointing down, far from every limit
HOME = np.array([0.06, 0.07, 0.05, -2.54, 0.0, 2.61, 0.11])
PERIOD_NS = 10_000_000  # at 100 Hz


def tabletop_kinematics(names: tuple[str, ...] | None = None) -> ForwardKinematics:
    robot = Embodiment.load('tabletop')
    urdf = resolve_resource(robot.urdf)
    return ForwardKinematics(urdf, names or robot.joint_names, BASE, HAND)


class PerfectArm:
    """A servo, and joint states that say at once what it commanded."""

    def __init__(self, kinematics: ForwardKinematics | None = None, **config) -> None:
        self.kinematics = kinematics or tabletop_kinematics()
        self.servo = Servo(self.kinematics, ServoConfig(**config))
        self.now_ns = 5_000_000_000

    def place(self, position: np.ndarray = HOME) -> None:
        self.servo.reset()
        self.servo.measure(position, self.now_ns)

    def period(self, twist: Iterable[float] | None = None, frame: str = BASE) -> ServoStep:
        """One period; None: nobody says anything."""
        self.now_ns += PERIOD_NS
        self.servo.measure(self.servo.motion.position, self.now_ns)
        if twist is not None:
            self.servo.command(np.asarray(twist, float), frame, self.now_ns)
        return self.servo.step(self.now_ns)

    def run(self, twist: Iterable[float], count: int, frame: str = BASE) -> list[ServoStep]:
        return [self.period(twist, frame) for _ in range(count)]

    def hand(self, step: ServoStep) -> tuple[np.ndarray, np.ndarray]:
        return self.kinematics(step.position)


def limits_used(servo: Servo, steps: list[ServoStep], start: np.ndarray) -> dict[str, float]:
    """Of joint motion from rest at start (J,): how much of each limit it used, 1 = all."""
    limits, period_s = servo.motion.limits, 1.0 / servo.config.rate_hz
    q = np.array([start, *(s.position for s in steps)])
    v = np.array([np.zeros(len(start)), *(s.velocity for s in steps)])
    np.testing.assert_allclose(np.diff(q, axis=0), v[1:] * period_s, atol=1e-12)
    middle, half = (limits.low + limits.high) / 2, (limits.high - limits.low) / 2
    a = np.diff(v, axis=0) / period_s
    return {
        'position': float((np.abs(q - middle) / half).max()),
        'velocity': float((np.abs(v) / limits.velocity).max()),
        'acceleration': float((np.abs(a) / limits.acceleration).max()),
    }
