"""Judges an episode from the physics: what was touched, lifted, moved, and whether it is done.

Success, true for `HOLD_STEPS` control steps in a row:
- pick: the target is between both fingers and at least 5 cm above where it started, for 0.5 s;
- place: the target rests inside the named tray and nothing of the robot touches it, for 0.3 s;
- push: the target has moved at least 6 cm to the named side, more sideways than along x, and is
  still on the table.

Wrong object: an object that is not the target was lifted 2 cm or more, or moved more than 4 cm.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vla_alignment_ros.sim.scene import tray_center, TRAY_HALF_M, TRAY_RIM_M
from vla_alignment_ros.sim.spec import EpisodeSpec

LIFT_M = 0.05
HOLD_STEPS = {'pick': 5, 'place': 3, 'push': 1}  # control steps in a row
PUSH_M = 0.06
WRONG_LIFT_M = 0.02
WRONG_MOVE_M = 0.04
REST_SPEED_M_S = 0.05


@dataclass(frozen=True)
class ObjectState:
    """True state of one object: position (3,) m, rotation (3, 3), speed m/s, what touches it."""

    name: str
    color: str
    shape: str
    position: np.ndarray
    rotation: np.ndarray
    speed_m_s: float
    fingers: frozenset[str] = frozenset()  # finger links in contact
    touches_robot: bool = False


@dataclass(frozen=True)
class EpisodeStatus:
    """How the episode stands. `wrong_object` stays true once it was; `success` may end."""

    success: bool
    touched: tuple[str, ...]
    wrong_object: bool
    steps: int
    holding: str | None
    done: bool = False  # success, or out of steps


@dataclass
class EpisodeJudge:
    """Follows one episode; `update` is called once per control step."""

    spec: EpisodeSpec
    max_steps: int
    _start: dict[str, np.ndarray] = field(default_factory=dict)
    _touched: list[str] = field(default_factory=list)
    _wrong: bool = False
    _held_steps: int = 0
    _steps: int = 0

    def start(self, objects: dict[str, ObjectState]) -> EpisodeStatus:
        """Remember where everything is at the start."""
        self._start = {name: state.position.copy() for name, state in objects.items()}
        return EpisodeStatus(False, (), False, 0, None)

    def update(self, objects: dict[str, ObjectState]) -> EpisodeStatus:
        """Judge the state after a step."""
        self._steps += 1
        for name, state in objects.items():
            if state.touches_robot and name not in self._touched:
                self._touched.append(name)
            if name != self.spec.target:
                moved = state.position - self._start[name]
                if moved[2] >= WRONG_LIFT_M or np.linalg.norm(moved[:2]) > WRONG_MOVE_M:
                    self._wrong = True
        target = objects.get(self.spec.target)
        met = target is not None and self._met(target)
        self._held_steps = self._held_steps + 1 if met else 0
        success = self._held_steps >= HOLD_STEPS[self.spec.task]
        return EpisodeStatus(
            success=success,
            touched=tuple(self._touched),
            wrong_object=self._wrong,
            steps=self._steps,
            holding=next((n for n, s in objects.items() if len(s.fingers) == 2), None),
            done=success or self._steps >= self.max_steps,
        )

    def _met(self, target: ObjectState) -> bool:
        moved = target.position - self._start[target.name]
        if self.spec.task == 'pick':
            return len(target.fingers) == 2 and moved[2] >= LIFT_M
        if self.spec.task == 'push':
            sign = 1.0 if self.spec.side == 'left' else -1.0
            sideways = sign * moved[1]
            return sideways >= PUSH_M and sideways > abs(moved[0]) and abs(moved[2]) < 0.03
        return (
            in_tray(self.spec, target.position)
            and not target.touches_robot
            and target.speed_m_s < REST_SPEED_M_S
        )


def in_tray(spec: EpisodeSpec, position: np.ndarray) -> bool:
    """Whether a point (3,) m is inside the walls of the episode's tray and near its floor."""
    if spec.tray is None:
        return False
    offset = position - tray_center(spec.scene, spec.tray)
    inside = np.all(np.abs(offset[:2]) < TRAY_HALF_M)
    return bool(inside and offset[2] < TRAY_RIM_M + 0.03)
