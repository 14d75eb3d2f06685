"""Cartesian servoing: a velocity of the hand, again and again, to joint velocities within limits.

Per period the joint velocities are found that move the hand along the twist, as fast as it says
or as much slower as the joints' limits want it: where a limit is in the way the hand slows down
and stays on its way, rather than leaving it. What is left free by an arm of more than six joints
pulls it gently to the posture in which servoing began.

Near a singularity the part of the twist that leads further into it is slowed, from one condition
number of the Jacobian on, and stopped at a second one; what leads out of it is free. Those are the
thresholds of MoveIt Servo, with its values.

Not mink, whose only unknowns are joint velocities: where a limit binds it leaves the way, and its
limits do not see to it that every joint can still stop. Here the speed along the way is an unknown
too, and daqp, which mink uses as well, solves for both.

=======  ==========================================================================================
state    meaning
=======  ==========================================================================================
go       the hand moves as it was told
slow     it moves along the twist, slower: the reason says which limit or singularity
hold     it brakes, or stands: the reason says why
=======  ==========================================================================================
"""

from __future__ import annotations

from ctypes import c_int
from dataclasses import dataclass

import daqp
import numpy as np

from vla_alignment_ros.control.joint_motion import JointMotion, MotionLimits
from vla_alignment_ros.control.singularity import condition_number, Singularity
from vla_alignment_ros.errors import ConfigError, ControlError, EmbodimentError
from vla_alignment_ros.kinematics import ForwardKinematics, rotation_exp, rotation_log

GO, SLOW, HOLD = 'go', 'slow', 'hold'

# what a radian counts against a metre; an arm that cannot turn its hand freely keeps the position
RADIAN_M, FEW_JOINTS_RADIAN_M = 0.3, 0.02
STAY_ON_WAY = 1e-2  # what slowing down costs against leaving the way
REST_COST = 3e-5  # of joint speed for its own sake
POSTURE_GAIN = 0.5  # per second
PULL_BACK = 10.0  # per second: how fast the hand returns to its way
LEASH = np.array([0.005] * 3 + [0.05] * 3)  # m, rad: the way is no further from the hand
BLOCKED = 0.02  # share of the speed: what less would cost in joint motion is not worth it
AT_LIMIT = 1e-9  # rad/s: what is nearer to a limit is at it
FULL_SPEED = 0.98  # of what was wanted: no reason to call it slow
OBSERVE_S = 0.2  # in which half of what a velocity-driven arm is off is taken over, about


@dataclass(frozen=True)
class ServoConfig:
    """How to servo. Limits of positions and velocities are the URDF's."""

    rate_hz: float = 100.0
    command_timeout_s: float = 0.1  # without a new twist the arm comes to rest
    state_timeout_s: float = 0.2  # without new joint states likewise
    max_linear_m_s: float = 0.5  # faster twists are slowed, their direction kept
    max_angular_rad_s: float = 2.5
    velocity_scale: float = 1.0  # share of the joints' highest velocities
    acceleration: tuple[float, ...] = (5.0,)  # rad/s²; one for all joints, or one a joint
    position_margin: float = 0.05  # rad, kept from both ends of each joint
    slow_condition: float = 17.0
    stop_condition: float = 30.0
    max_lead: float = 0.2  # rad; an arm that is further behind does not follow
    corrects: bool = False  # velocity commands: the position is measured, not commanded

    def __post_init__(self) -> None:
        if not self.slow_condition < self.stop_condition:
            raise ConfigError(
                f'slow_condition {self.slow_condition} must be below stop_condition '
                f'{self.stop_condition}'
            )

    def limits(self, kinematics: ForwardKinematics) -> MotionLimits:
        """What the joints of an arm may do.

        Raises:
            EmbodimentError: the URDF gives a joint no velocity, or the margin leaves no room.
            ConfigError: as many accelerations as joints are wanted, or one.
        """
        given, names = kinematics.limits(), kinematics.joint_names
        unlimited = [n for n, v in zip(names, given.velocity) if not np.isfinite(v)]
        if unlimited:
            raise EmbodimentError(
                f'the URDF gives {", ".join(unlimited)} no highest velocity: write it into '
                f"<limit velocity='…'>"
            )
        if len(self.acceleration) not in (1, len(names)):
            raise ConfigError(
                f'acceleration needs one value, or one for each of {", ".join(names)}; got '
                f'{len(self.acceleration)}'
            )
        low, high = given.low + self.position_margin, given.high - self.position_margin
        tight = [n for n, a, b in zip(names, low, high) if not a < b]
        if tight:
            raise EmbodimentError(
                f'the position limits of {", ".join(tight)} leave no room for a margin of '
                f'{self.position_margin}'
            )
        acceleration = np.broadcast_to(np.array(self.acceleration, dtype=float), len(names))
        return MotionLimits(low, high, given.velocity * self.velocity_scale, acceleration)


@dataclass(frozen=True)
class ServoStep:
    """What the joints are to do for one period."""

    position: np.ndarray  # (J,) at its end
    velocity: np.ndarray  # (J,) during it
    state: str  # go, slow or hold
    reason: str
    condition: float  # condition number of the Jacobian, where the arm would come to rest
    speed: float  # share of the wanted speed, 0 where none was wanted


class Servo:
    """Servoes one arm. Not thread-safe, no clock: `now_ns` is any clock that is never set.

    Use: `reset()` when motion may begin, `measure()` with what the joint states say, `command()`
    with each twist, `step()` each period.

    Raises:
        EmbodimentError: other joints than the named ones move the hand, or a limit is missing.
    """

    def __init__(self, kinematics: ForwardKinematics, config: ServoConfig) -> None:
        names, chain = kinematics.joint_names, kinematics.chain()
        if set(names) != set(chain):
            raise EmbodimentError(
                f'the hand is moved by {", ".join(chain) or "no joint"}, joint_names has '
                f'{", ".join(names)}: name exactly those'
            )
        self.config = config
        self.names = names
        self.refused = ''  # why the last twist counts as none; empty where it does not
        self._kinematics = kinematics
        self._singularity = Singularity(kinematics, config.slow_condition, config.stop_condition)
        self._dt = 1.0 / config.rate_hz
        self.motion = JointMotion(config.limits(kinematics), self._dt)
        radian_m = RADIAN_M if len(names) >= 6 else FEW_JOINTS_RADIAN_M
        self._weight = np.array([1.0] * 3 + [radian_m] * 3)  # (6,)
        self.reset()

    def reset(self) -> None:
        """Forget the past: nothing moves before new joint states and a new twist."""
        self._measured: np.ndarray | None = None  # (J,)
        self._measured_ns = 0
        self._anchored = False  # whether the motion begins where the arm is
        self._twist = np.zeros(6)
        self._in_tool = False
        self._twist_ns: int | None = None
        self._way: tuple[np.ndarray, np.ndarray] | None = None  # pose that the hand should have
        self.refused = ''

    # -- what comes in --------------------------------------------------------------------------

    def measure(self, position: np.ndarray, now_ns: int) -> None:
        """Take measured joint positions (J,) rad, in the order of `names`.

        Raises:
            ControlError: not as many finite numbers.
        """
        values = np.asarray(position, dtype=np.float64)
        if values.shape != (len(self.names),) or not np.isfinite(values).all():
            raise ControlError(f'need {len(self.names)} finite joint positions, got {values}')
        since_s = (now_ns - self._measured_ns) * 1e-9
        self._measured, self._measured_ns = values, now_ns
        if not self._anchored:
            self._anchor()
            self._posture = values.copy()
        elif self.config.corrects:
            self.motion.position += (values - self.motion.position) * min(1.0, since_s / OBSERVE_S)

    def command(self, twist: np.ndarray, frame: str, now_ns: int) -> None:
        """Take a twist (6,): m/s and rad/s along the axes of `frame`, of the hand's origin.

        Raises:
            ControlError: it is not finite or in a frame that is neither base nor hand: the twist
                before it counts no more either.
        """
        values = np.asarray(twist, dtype=np.float64)
        base, hand = self._kinematics.ends
        self._twist_ns = None
        if values.shape != (6,) or not np.isfinite(values).all():
            self.refused = f'the twist is not finite: {values}'
        elif frame not in (base, hand):
            self.refused = (
                f'the twist is in frame {frame!r}: send it in {base!r}, or in {hand!r} along the '
                "hand's own axes"
            )
        else:
            self.refused = ''
            self._twist, self._in_tool, self._twist_ns = values, frame == hand, now_ns
            return
        raise ControlError(self.refused)

    # -- what goes out --------------------------------------------------------------------------

    def step(self, now_ns: int, halt: str = '') -> ServoStep | None:
        """One period on; None while it is not known where the arm is.

        halt: why the arm is to come to rest whatever it was told.
        """
        if not self._anchored:
            return None
        # what cannot be stopped any more counts as done
        ahead = self.motion.rest_position
        jacobian_ahead = self._kinematics.pose_and_jacobian(ahead)[2]
        condition = condition_number(jacobian_ahead)
        position, rotation, jacobian = self._kinematics.pose_and_jacobian(self.motion.position)
        reason = halt or self.hold_reason(now_ns)
        wanted = np.zeros(6) if reason else self._wanted(rotation)
        reason = reason or ('' if wanted.any() else 'the twist is zero')
        if reason:
            self._way = None
            self.motion.advance(self.motion.brake_together())
            if self.motion.at_rest and self._lag() > self.config.max_lead:
                self._anchor()  # it was moved, or stopped: go on from where it is
            return self._said(HOLD, reason, condition, 0.0)
        weight = self._weight
        allowed, near = self._singularity.allowed(wanted, ahead, jacobian_ahead, condition)
        share = self._move(allowed, position, rotation, jacobian)
        share *= float(np.linalg.norm(allowed * weight) / np.linalg.norm(self._twist * weight))
        state, reason = self._judge(share, near, condition)
        return self._said(state, reason, condition, share)

    def hold_reason(self, now_ns: int) -> str:
        """Why the arm must not move now; empty where it may."""
        if self._measured is None:
            return 'no joint states yet'
        age_s = (now_ns - self._measured_ns) * 1e-9
        if age_s > self.config.state_timeout_s:
            return f'joint states are {age_s:.2f} s old (limit {self.config.state_timeout_s} s)'
        if self._lag() > self.config.max_lead:
            worst = int(np.argmax(np.abs(self.motion.position - self._measured)))
            return f'the arm does not follow: {self.names[worst]} is {self._lag():.2f} rad behind'
        if self.refused:
            return self.refused
        if self._twist_ns is None:
            return 'no twist yet'
        age_s = (now_ns - self._twist_ns) * 1e-9
        if age_s >= self.config.command_timeout_s:
            return f'no twist for {age_s:.2f} s (limit {self.config.command_timeout_s} s)'
        return ''

    # -- inside ---------------------------------------------------------------------------------

    def _said(self, state: str, reason: str, condition: float, share: float) -> ServoStep:
        motion = self.motion
        return ServoStep(
            motion.position.copy(), motion.velocity.copy(), state, reason, condition, share
        )

    def _anchor(self) -> None:
        self.motion.reset(self._measured)
        self._anchored = True

    def _lag(self) -> float:
        return float(np.abs(self.motion.position - self._measured).max())

    def _wanted(self, rotation: np.ndarray) -> np.ndarray:
        """The twist (6,) along the axes of the base, no faster than allowed."""
        twist = self._twist
        if self._in_tool:
            twist = (twist.reshape(2, 3) @ rotation.T).ravel()
        speeds = np.linalg.norm(twist.reshape(2, 3), axis=1)
        most = np.array([self.config.max_linear_m_s, self.config.max_angular_rad_s])
        return twist / max(1.0, float((speeds / most).max()))

    def _move(
        self,
        twist: np.ndarray,
        position: np.ndarray,
        rotation: np.ndarray,
        jacobian: np.ndarray,
    ) -> float:
        """Move the joints for one period; the share of the twist's speed that was possible."""
        weight, goal = self._weight, twist
        if len(self.names) < 6:  # what the joints cannot do must not keep them from the rest
            heavy = weight[:, None] * jacobian
            goal = jacobian @ np.linalg.lstsq(heavy, weight * twist, rcond=1e-3)[0]
        if self._way is None:
            self._way, self._share = (position, rotation), 0.0
        off = np.concatenate([self._way[0] - position, rotation_log(self._way[1] @ rotation.T)])
        off = np.clip(off, -LEASH, LEASH)
        low, high = self.motion.bounds()
        velocity, share = self._solve(jacobian, goal, off, low, high)
        if share < BLOCKED:  # it may only be at the beginning
            ends = self._without_inertia()
            share = 0.0 if self._solve(jacobian, goal, off, *ends)[1] < BLOCKED else share
        self._pressed = self._limits_in_the_way(velocity, low, high)
        self._share = share
        if share == 0.0:
            self._way = None
            self.motion.advance(self.motion.brake_together())
            return 0.0
        self.motion.advance(velocity)
        step = goal * share * self._dt
        self._way = (
            position + off[:3] + step[:3],
            rotation_exp(step[3:]) @ rotation_exp(off[3:]) @ rotation,
        )
        return share

    def _solve(
        self,
        jacobian: np.ndarray,
        goal: np.ndarray,
        off: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> tuple[np.ndarray | None, float]:
        """Joint velocities (J,) between low and high, and the share of the speed they reach.

        goal: the twist (6,). off: how far (6,) the hand is from its way. Without a solution None.
        """
        weight, count = self._weight, len(self.names)
        size = float(np.linalg.norm(goal * weight))
        if size < 1e-9:
            return np.zeros(count), 0.0
        # unknowns: the joint velocities, and the share of the speed
        matrix = np.zeros((7 + count, count + 1))
        matrix[:6, :count] = weight[:, None] * jacobian
        matrix[:6, count] = -weight * goal
        matrix[6, count] = STAY_ON_WAY * size
        matrix[7:, :count] = REST_COST * np.eye(count)
        target = np.zeros(7 + count)
        target[:6] = weight * off * PULL_BACK
        target[6] = STAY_ON_WAY * size
        target[7:] = REST_COST * self._towards_posture(size * self._share)
        low, high = np.append(low, 0.0), np.append(high, 1.0)
        found, _, solved, _ = daqp.solve(
            matrix.T @ matrix,
            -matrix.T @ target,
            np.zeros((0, count + 1)),  # nothing but bounds
            high,
            low,
            np.zeros(count + 1, dtype=c_int),
        )
        if solved < 1:
            return None, 0.0
        found = np.clip(found, low, high)  # rounding
        return found[:count], float(found[count])

    def _without_inertia(self) -> tuple[np.ndarray, np.ndarray]:
        """Velocities (J,) that positions and speed limits allow, however suddenly."""
        below, above = self.motion.room()
        fastest = self.motion.limits.velocity
        return -np.minimum(below, fastest), np.minimum(above, fastest)

    def _towards_posture(self, speed: float) -> np.ndarray:
        """Joint velocities (J,) back to the posture of the beginning.

        speed: of the hand just now. Where a limit holds the hand the arm is to be still: else it
        would swing to and fro between the limit and its posture.
        """
        most = 0.5 * self.motion.limits.velocity
        back = np.clip(POSTURE_GAIN * (self._posture - self.motion.position), -most, most)
        return back * min(1.0, speed / 0.05)

    def _limits_in_the_way(
        self, velocity: np.ndarray | None, low: np.ndarray, high: np.ndarray
    ) -> str:
        """Which joints are at an end of their range or at their speed limit, in words."""
        if velocity is None:
            return 'no motion of the joints was found'
        below, above = self.motion.room()
        most, least = velocity >= high - AT_LIMIT, velocity <= low + AT_LIMIT
        at = (most & (high >= above)) | (least & (-low >= below))
        fast = np.abs(velocity) >= self.motion.limits.velocity - AT_LIMIT
        said = []
        for where, text in ((at, 'at the end of its range'), (fast & ~at, 'at its speed limit')):
            names = [name for name, here in zip(self.names, where) if here]
            if names:
                said.append(f'{", ".join(names)} {text}')
        return '; '.join(said)

    def _judge(self, share: float, near: bool, condition: float) -> tuple[str, str]:
        if share >= FULL_SPEED:
            return GO, ''
        if near:
            what = 'in' if condition >= self.config.stop_condition else 'near'
            reason = f'{what} a singularity (condition {condition:.0f})'
        elif self._pressed:
            reason = self._pressed
        elif condition >= self.config.stop_condition:
            reason = (
                f'the pose is singular (condition {condition:.0f}): where the hand cannot leave '
                'it, move the joints with another controller'
            )
        else:
            return GO, ''  # it gathers speed, or turns round
        return (SLOW if share > 0.0 else HOLD), reason
