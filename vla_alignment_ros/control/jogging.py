"""Jogger: how far sticks are pushed or keys are held, as commands of one arm within its limits."""

from __future__ import annotations

import numpy as np

from vla_alignment_ros.control.arm import GuardedArm, Sent
from vla_alignment_ros.control.guard import UNLIMITED
from vla_alignment_ros.embodiment import ACTION_DIM, Embodiment
from vla_alignment_ros.errors import ConfigError

SLOWEST, FASTEST = 0.05, 1.0  # share of the robot's own speed limits
FASTER = 1.25
JOINT_SPEED = 0.5  # rad/s or m/s at full speed, for positions without a max_velocity
REST_STEPS = 3  # commands that are sent again once the arm holds; then there is silence


class Jogger:
    """Drives one arm by deflections: (7,), −1…1 of its own speed limits, per action dimension.

    End effectors are moved along and about the axes of the action's frame, joints by themselves.
    The gripper's entry is not looked at: it is either opened or closed. Not thread-safe, no clock.

    Args:
        embodiment: whose arm it is.
        speed: 0…1, share of its speed limits at full deflection.

    Raises ConfigError for a speed out of range, and what `GuardedArm` raises.
    """

    def __init__(self, embodiment: Embodiment, speed: float) -> None:
        if not SLOWEST <= speed <= FASTEST:
            raise ConfigError(f'speed must be within {SLOWEST}…{FASTEST}, got {speed}')
        self.speed = speed
        self.opening: float | None = None  # what the gripper is told, 1 = open; None: not known
        self.arm = GuardedArm(embodiment)
        self._embodiment = embodiment
        self._top = _top_speed(embodiment)
        self._gripper = self.arm.guard.gripper_index
        self._last: np.ndarray | None = None  # (7,) what was sent last, or where it began
        self._driving = False
        self._resting = 0  # commands sent since the arm holds

    @property
    def driving(self) -> bool:
        """Whether commands go out: the arm is moved, or comes to rest."""
        return self._driving

    def change_speed(self, up: bool) -> None:
        """One step faster or slower."""
        factor = FASTER if up else 1.0 / FASTER
        self.speed = float(np.clip(self.speed * factor, SLOWEST, FASTEST))

    def toggle_gripper(self) -> None:
        """Close the gripper where it is told to be open, and open it otherwise."""
        self.opening = 0.0 if (1.0 if self.opening is None else self.opening) > 0.5 else 1.0

    def follow(self, action: np.ndarray) -> None:
        """Take what somebody else commands (7,): their gripper is where we go on from."""
        if not self._driving and self._gripper is not None:
            self.opening = float(action[self._gripper])

    def command(
        self,
        ts_ns: int,
        deflection: np.ndarray | None,
        measured: tuple[int, np.ndarray] | None = None,
    ) -> Sent | None:
        """Return the command for the control step that begins at ts_ns; None: say nothing.

        deflection: (7,); None where nobody wants to drive: then the arm is brought to rest, and
            after `REST_STEPS` more commands that hold it there is silence.
        measured: stamp and state (S,) of the newest joint states, where they are known.
        """
        if self.opening is None and measured is not None:
            self.opening = float(measured[1][len(self._embodiment.joint_names)] > 0.5)
        if deflection is not None and not self._driving:
            self._begin(measured)
        if not self._driving:
            return None
        if measured is not None:
            self.arm.see(*measured)
        if deflection is not None:
            self._resting = 0
        elif self.arm.guard.at_rest and self._gripper_is_there():
            self._resting += 1
            self._driving = self._resting <= REST_STEPS
            if not self._driving:
                return None
        sent = self.arm.step(ts_ns, self._wish(np.zeros(7) if deflection is None else deflection))
        self._driving, self._last = sent.action is not None, sent.action
        return sent

    # -- inside ---------------------------------------------------------------------------------

    def _begin(self, measured: tuple[int, np.ndarray] | None) -> None:
        """Take the arm where it is; of the gripper counts what it was told, not its fingers."""
        self._driving = True
        self.arm.forget()
        if measured is None:
            if self._embodiment.action.space != 'ee_delta':
                self.arm.guard.reset()  # it may have been moved since: better none than a guess
            return
        state = np.array(measured[1], dtype=np.float64)
        self._last = state[:ACTION_DIM].copy()
        if self._gripper is not None:
            state[len(self._embodiment.joint_names)] = self.opening
        self.arm.guard.reset(state)

    def _wish(self, deflection: np.ndarray) -> np.ndarray:
        pushed = np.clip(deflection, -1.0, 1.0) * self._top * self.speed  # per second
        spec = self._embodiment.action
        if spec.space == 'ee_delta':
            wish = pushed / self._embodiment.rate_hz
        elif spec.space == 'joint_velocity':
            wish = pushed
        else:
            at = 0.0 if self._last is None else self._last  # then it is refused
            wish = np.clip(at + pushed / self._embodiment.rate_hz, spec.low, spec.high)
        if self._gripper is not None:
            wish[self._gripper] = 1.0 if self.opening is None else self.opening
        return wish

    def _gripper_is_there(self) -> bool:
        is_at = self.arm.guard.opening
        return is_at is None or self.opening is None or abs(is_at - self.opening) < 1e-6


def _top_speed(embodiment: Embodiment) -> np.ndarray:
    """How fast each dimension may be jogged (7,), per second."""
    spec = embodiment.action
    limit = np.array(spec.max_velocity or (UNLIMITED,) * ACTION_DIM)
    if spec.space == 'joint_position':
        return np.where(limit < UNLIMITED, limit, JOINT_SPEED)
    per_second = embodiment.rate_hz if spec.space == 'ee_delta' else 1.0
    reach = np.minimum(np.abs(spec.low), np.abs(spec.high)) * per_second
    return np.minimum(limit, reach)
