"""ActionGuard: whatever a policy proposes, what leaves stays within the embodiment's limits.

Every one of the seven dimensions is followed as a motion (x, v, a), per second, sampled at the
control rate:

* ``ee_delta``: x is the position inside the workspace box where the end effector is known
  (without bounds elsewhere), v = delta * rate_hz, bounded by low/high and max_velocity;
* ``joint_velocity``: v is the action, bounded by low/high and max_velocity; x is the joint, inside
  its range where that is known (see `limits`);
* ``joint_position`` and every gripper: x is the action, bounded by low/high; v by max_velocity.

Acceleration is the difference of v from one step to the next, jerk that of the acceleration; the
first step of a chunk is measured against the last action that was executed, so a seam between
two chunks is a step like any other.

The guard never accepts a value from which it could not stop: with each value goes a stop profile
(braking as fast as acceleration and jerk allow) that has been checked to its end against every
limit. Where the wish is infeasible, the nearest value that passes is taken; at worst that is the
next step of the stop profile itself, so there always is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vla_alignment_ros.control.codecs import checked_action, gripper_index
from vla_alignment_ros.control.limits import bounded_positions
from vla_alignment_ros.embodiment import ACTION_DIM, Embodiment
from vla_alignment_ros.errors import ControlError

UNLIMITED = 1e9  # stands for an absent limit; finite, so that no inf * 0 arises
MAX_STOP_STEPS = 1000  # a value from which stopping takes longer is not accepted
_GRID = 17  # candidate values between the wish and the stop profile, tried at once
_ROUNDS = 3  # refinements of that grid: a resolution of 1/4096 of the gap
_TOLERANCE = 1e-9  # relative; room for rounding


@dataclass(frozen=True)
class GuardStep:
    """One action to execute: always within the limits, a step of the stop where refused."""

    action: np.ndarray | None  # (7,) float64; None: refused, and a hold cannot be expressed yet
    clipped: bool
    refused: str | None = None


@dataclass
class _Motion:
    """Where every dimension is after the last executed step. All (7,) float64."""

    x: np.ndarray = field(default_factory=lambda: np.zeros(ACTION_DIM))
    v: np.ndarray = field(default_factory=lambda: np.zeros(ACTION_DIM))
    a: np.ndarray = field(default_factory=lambda: np.zeros(ACTION_DIM))
    known: np.ndarray = field(default_factory=lambda: np.zeros(ACTION_DIM, dtype=bool))
    low: np.ndarray = field(default_factory=lambda: np.full(ACTION_DIM, -np.inf))  # range of x
    high: np.ndarray = field(default_factory=lambda: np.full(ACTION_DIM, np.inf))
    placed: bool = False  # the positions that are only measured are known

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of x for the next step. What is already outside may only come back."""
        below, above = _slack(self.low), _slack(self.high)
        low, high = self.low - below, self.high + above
        return np.where(self.x < low, self.x - below, low), np.where(
            self.x > high, self.x + above, high
        )


def _slack(bound: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(bound), _TOLERANCE * (1.0 + np.abs(bound)), 0.0)


def _clip(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    # np.clip says the same four times slower for arrays as small as these
    return np.minimum(np.maximum(values, low), high)


def _or_unlimited(values: tuple[float, ...] | None) -> np.ndarray:
    if values is None:
        return np.full(ACTION_DIM, UNLIMITED)
    return np.minimum(np.asarray(values, dtype=np.float64), UNLIMITED)


def _stop_change(v: np.ndarray, change: np.ndarray, most: np.ndarray, bend: np.ndarray):
    """Return the next step-to-step change of v on the way to v = 0 with change = 0.

    change: the last such change; most: bound on |change|; bend: bound on its own change. The
    largest change d is taken from which |d|, |d| - bend, |d| - 2 bend … 0 adds up to at most |v|.
    """
    size = np.abs(v)
    ramp = np.floor((np.sqrt(1.0 + 8.0 * size / bend) - 1.0) / 2.0)  # steps to unwind d
    wish = -np.sign(v) * (size + bend * ramp * (ramp + 1.0) / 2.0) / (ramp + 1.0)
    return _clip(_clip(wish, change - bend, change + bend), -most, most)


class ActionGuard:
    """Keeps the executed actions of one robot within its limits. Not thread-safe, no clock.

    Use: `reset()` when motion may begin, `check()` for a whole chunk before it is planned in,
    `step()` for each action as it is sent, `decelerate()` in its place to come to a stop.

    Raises ControlError when the limits leave no room to stand still (low above 0 for a velocity).
    """

    def __init__(self, embodiment: Embodiment) -> None:
        spec = embodiment.action
        self.embodiment = embodiment
        self.names = spec.names
        self.gripper_index = gripper_index(embodiment)
        self._dt = 1.0 / embodiment.rate_hz
        low, high = np.array(spec.low, float), np.array(spec.high, float)
        # dimensions whose action is a position, not a motion
        self._absolute = np.full(ACTION_DIM, spec.space == 'joint_position')
        if self.gripper_index is not None:
            self._absolute[self.gripper_index] = True
        # action = v * scale for the others
        self._scale = self._dt if spec.space == 'ee_delta' else 1.0
        v_max = _or_unlimited(spec.max_velocity)
        self._v_low = np.where(self._absolute, -v_max, np.maximum(low / self._scale, -v_max))
        self._v_high = np.where(self._absolute, v_max, np.minimum(high / self._scale, v_max))
        if (self._v_low > 0).any() or (self._v_high < 0).any():
            raise ControlError(
                f"embodiment '{embodiment.name}': action.low must be <= 0 and action.high >= 0 "
                f'for {spec.space}, or the robot can never stand still; got {spec.low} {spec.high}'
            )
        self._range = (
            np.where(self._absolute, low, -np.inf),
            np.where(self._absolute, high, np.inf),
        )
        self.bounded = bounded_positions(embodiment)
        # a hand may move before it was seen: not every state has it. Every state has the joints
        self._must_be_placed = self.bounded is not None and spec.space == 'joint_velocity'
        # bounds per control step: change of v, and change of that change
        self._most = _or_unlimited(spec.max_acceleration) * self._dt
        self._bend = _or_unlimited(spec.max_jerk) * self._dt**2
        self._v_tol = _TOLERANCE * (1.0 + np.maximum(-self._v_low, self._v_high))
        self._motion = _Motion()
        self.reset()

    @property
    def at_rest(self) -> bool:
        """True when the last executed step left nothing moving (gripper included)."""
        return not (self._motion.v.any() or self._motion.a.any())

    @property
    def knows_hold(self) -> bool:
        """Whether `decelerate` can name every position that it has to."""
        return bool(self._motion.known.all())

    @property
    def opening(self) -> float | None:
        """What the gripper was commanded last, 1 = open; None where that is not known."""
        g = self.gripper_index
        return None if g is None or not self._motion.known[g] else float(self._motion.x[g])

    def reset(self, state: np.ndarray | None = None) -> None:
        """Forget the past: the robot stands still.

        state: (S,) Observation.state, needed for `joint_position`, where a first action can only
        be judged against where the arm is, and for joints with a range. Without it the first
        gripper command is free.
        """
        motion = _Motion(low=self._range[0].copy(), high=self._range[1].copy())
        motion.known = ~self._absolute  # a motion is known: zero
        if state is not None:
            arm = len(self.embodiment.joint_names)
            values = np.asarray(state, dtype=np.float64)
            if values.ndim != 1 or len(values) < arm + 1 or not np.isfinite(values).all():
                raise ControlError(
                    f'state begins with {arm} finite joint positions and the gripper opening, '
                    f'got shape {values.shape}'
                )
            if self.embodiment.action.space == 'joint_position':
                motion.x[:arm] = values[:arm]
            if self.gripper_index is not None:
                motion.x[self.gripper_index] = values[arm]
            motion.known[:] = True
            if self._must_be_placed:
                self._place(motion, self.bounded.measured(values))
        self._motion = motion

    def check(self, chunk: np.ndarray) -> str | None:
        """Why a whole chunk (H, 7) in physical units is refused; None where it may be planned in.

        One value that is not finite refuses all of it. Limits are no reason: step() keeps them.

        Raises ControlError for another shape.
        """
        wishes = np.asarray(chunk, dtype=np.float64)
        if wishes.ndim != 2 or wishes.shape[1] != ACTION_DIM:
            raise ControlError(f'a chunk has shape (H, {ACTION_DIM}), got {wishes.shape}')
        return self._refusal(wishes)

    def step(
        self, action: np.ndarray, position: np.ndarray | None = None, speed: float = 1.0
    ) -> GuardStep:
        """Limit one action (7,) against the last executed one and remember it as executed.

        position: where what is `bounded` is now, (n,) m or rad; without it, it is reckoned from
        what was executed since it was known.
        speed: 0..1, share of the proposed motion that is wanted (the gripper is not slowed).
        An action that is not finite is refused, and a step of the stop is returned in its place.
        """
        wish = np.asarray(action, dtype=np.float64)
        if wish.shape != (ACTION_DIM,):
            raise ControlError(f'an action has shape ({ACTION_DIM},), got {wish.shape}')
        if not 0.0 <= speed <= 1.0:
            raise ControlError(f'speed must be within 0..1, got {speed}')
        if position is not None and self.bounded is not None:
            self._place(self._motion, np.asarray(position, dtype=np.float64))
        refused = self._refusal(wish[None])
        if refused is not None:
            return GuardStep(self._stop() if self.knows_hold else None, False, refused)
        return GuardStep(*self._limit(self._motion, wish, speed))

    def decelerate(self) -> np.ndarray:
        """Return the next action (7,) float64 of the stop, and remember it as executed.

        Call it each control period until `at_rest`; from then on it keeps returning the hold
        (zero motion, or the positions where the robot stopped).

        Raises ControlError while positions that an action has to name are unknown.
        """
        if not self.knows_hold:
            raise ControlError(
                'cannot hold: where the gripper or the joints are is unknown; call '
                'reset(state) or execute an action first'
            )
        return self._stop()

    # -- inside -------------------------------------------------------------------------------

    def _refusal(self, wishes: np.ndarray) -> str | None:
        bad = np.argwhere(~np.isfinite(wishes))
        if len(bad):
            step, dim = (int(i) for i in bad[0])
            return f'{self.names[dim]} of step {step} is not finite ({wishes[step, dim]})'
        arm_unknown = ~self._motion.known
        if self.gripper_index is not None:
            arm_unknown = np.delete(arm_unknown, self.gripper_index)
        if arm_unknown.any() or (self._must_be_placed and not self._motion.placed):
            return 'where the joints are is unknown: reset(state) first'
        return None

    def _place(self, motion: _Motion, position: np.ndarray) -> None:
        """Put the measured position (n,) into the motion, and its bounds round it."""
        low, high = self.bounded.low, self.bounded.high
        if position.shape != low.shape or not np.isfinite(position).all():
            raise ControlError(f'a position is {len(low)} finite numbers, got {position}')
        n = len(low)
        motion.x[:n], motion.low[:n], motion.high[:n] = position, low, high
        motion.placed = True

    def _limit(self, m: _Motion, wish: np.ndarray, speed: float) -> tuple[np.ndarray, bool]:
        """Advance `m` by the feasible step nearest to wish (7,): (action, was it changed)."""
        unknown = ~m.known
        if unknown.any():  # a gripper never seen: it starts at its first command
            m.x[unknown] = _clip(wish, m.low, m.high)[unknown]
            m.known = np.ones(ACTION_DIM, dtype=bool)
        wish = _clip(wish, -1e12, 1e12)  # so that no difference overflows
        v_wish = np.where(self._absolute, (wish - m.x) / self._dt, wish / self._scale)
        if speed < 1.0:
            slowed = v_wish * speed
            if self.gripper_index is not None:
                slowed[self.gripper_index] = v_wish[self.gripper_index]
            v_wish = slowed
        change = m.a * self._dt
        lowest = np.maximum(self._v_low, m.v + np.maximum(-self._most, change - self._bend))
        highest = np.minimum(self._v_high, m.v + np.minimum(self._most, change + self._bend))
        # at the end of its range a dimension can have no room between the two but the stop
        stop = m.v + _stop_change(m.v, change, self._most, self._bend)
        v = _clip(v_wish, np.minimum(lowest, stop), np.maximum(highest, stop))
        good = self._can_stop(m, v)
        for _ in range(_ROUNDS):
            if good.all():
                break
            share = np.linspace(0.0, 1.0, _GRID)[:, None]  # 0 = the stop, 1 = the wish
            grid = stop + share * (v - stop)  # (G, 7)
            passes = self._can_stop(m, grid)
            passes[0] = True  # checked when the step before was accepted
            best = _GRID - 1 - np.argmax(passes[::-1], axis=0)
            columns = np.arange(ACTION_DIM)
            nearest = grid[best, columns]
            beyond = grid[np.minimum(best + 1, _GRID - 1), columns]
            # refine between the last that passes and the first that does not
            stop, v = np.where(good, stop, nearest), np.where(good, v, beyond)
        v = np.where(good, v, stop)
        action = self._advance(m, v)
        wanted = np.where(self._absolute, m.x + (v_wish - v) * self._dt, v_wish * self._scale)
        return action, bool((np.abs(action - wanted) > 1e-9 * (1.0 + np.abs(wanted))).any())

    def _stop(self) -> np.ndarray:
        m = self._motion
        change = _stop_change(m.v, m.a * self._dt, self._most, self._bend)
        return self._advance(m, m.v + change)

    def _advance(self, m: _Motion, v: np.ndarray) -> np.ndarray:
        m.a = (v - m.v) / self._dt
        m.v = v
        m.x = m.x + v * self._dt
        return checked_action(np.where(self._absolute, m.x, m.v * self._scale))

    def _can_stop(self, m: _Motion, v: np.ndarray) -> np.ndarray:
        """Tell for next speeds v (…, 7) whether the motion can be stopped within every limit."""
        change = v - m.v
        x = m.x + v * self._dt
        low, high = m.bounds()
        v_low, v_high = self._v_low - self._v_tol, self._v_high + self._v_tol
        good = np.ones(v.shape, dtype=bool)
        for _ in range(MAX_STOP_STEPS):
            good &= (x >= low) & (x <= high)
            good &= (v >= v_low) & (v <= v_high)
            if not (v.any() or change.any()):
                return good
            change = _stop_change(v, change, self._most, self._bend)
            v = v + change
            x = x + v * self._dt
        return good & (v == 0.0) & (change == 0.0)
