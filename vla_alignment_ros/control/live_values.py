"""What the messages of a running robot say about it: rate, clock, pictures, units, ranges."""

from __future__ import annotations

from collections.abc import Iterator
import math

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.buffer import DEFAULT_MAX_AGE_PERIODS, OTHER_CLOCK_S
from vla_alignment_ros.control.limits import bounded_positions
from vla_alignment_ros.control.live_seen import FAULT, Finding, Heard, NOTE
from vla_alignment_ros.embodiment import Camera, Embodiment, resolve_resource
from vla_alignment_ros.errors import VlaError, WireError
from vla_alignment_ros.kinematics import ForwardKinematics

ENOUGH_RATE = 0.9  # of the control rate
AHEAD_S = 0.05  # a stamp may be so far in the future: clocks are never quite equal
ASPECT = 0.03  # relative: an image of another shape is squeezed
REACH = 0.05  # of a range: how far beyond its end a measurement may be
GRIPPER_REACH = 0.1  # the same of a gripper, which is pressed open and shut
OTHER_UNIT = 4.0  # ranges beyond the end: no wrong end but another unit
LONGEST_FINGER_M = 0.2  # a gripper joint that goes no further slides


def is_whole(raw: bytes, msgtype: str) -> bool:
    """Whether a message is at least as long as its header."""
    try:
        wire.stamp_ns(raw, msgtype)
    except WireError:
        return False
    return True


def limit_s(e: Embodiment, source: str) -> float:
    """How old the newest message of a source may be."""
    return e.max_age_s.get(source, DEFAULT_MAX_AGE_PERIODS / e.rate_hz)


def rate_hz(messages: list[Heard], msgtype: str) -> float:
    """By the stamps, as a busy machine hands messages over in bursts; else by their coming."""
    said = np.unique([wire.stamp_ns(m.raw, msgtype) for m in messages])
    times = said if len(said) > 1 else np.unique([m.steady_ns for m in messages])
    return float((len(times) - 1) * 1e9 / (times[-1] - times[0])) if len(times) > 1 else 0.0


def rhythm(name: str, messages: list[Heard], msgtype: str, e: Embodiment) -> Iterator[Finding]:
    """Whether a source is as fast as the control rate."""
    found_hz = rate_hz(messages, msgtype)
    if found_hz < ENOUGH_RATE * e.rate_hz:
        text = f'{found_hz:.1f} Hz is too slow: a policy at {e.rate_hz:g} Hz needs as many'
        yield Finding(FAULT, name, text)


def stamps(
    name: str, messages: list[Heard], msgtype: str, limit_s: float
) -> Iterator[Finding]:
    """Whether stamps and this machine have one clock, and messages come soon after theirs."""
    said = np.array([wire.stamp_ns(m.raw, msgtype) for m in messages], dtype=np.float64)
    if (said == 0).any():
        yield Finding(FAULT, name, 'it is not stamped (0): its age would be unknown')
        return
    if (np.diff(said) < 0).any():
        text = 'its stamps run backwards: two publishers, or a clock that jumps'
        yield Finding(FAULT, name, text)
    ages = {
        clock: float(np.median([now - s for now, s in zip(times, said) if now])) * 1e-9
        for clock, times in (('system', [m.system_ns for m in messages]),
                             ('simulation', [m.sim_ns for m in messages]))
        if any(times)
    }  # fmt: skip
    clock, age_s = min(ages.items(), key=lambda item: abs(item[1]))
    if abs(age_s) > max(OTHER_CLOCK_S, limit_s):
        yield Finding(
            FAULT, name,
            f"its stamps and the system's clock differ by {abs(age_s):.0f} s: another clock. Keep "
            'the machines in step (chrony), or publish /clock',
        )  # fmt: skip
    elif age_s > limit_s:
        yield Finding(
            FAULT, name,
            f'it comes {age_s:.2f} s after its stamp (limit {limit_s:.2f} s): late, or the clocks '
            'of the machines differ',
        )  # fmt: skip
    elif age_s < -AHEAD_S:
        yield Finding(
            FAULT, name, f'its stamps are {-age_s:.2f} s in the future: the clocks differ'
        )
    if clock == 'simulation':
        yield Finding(NOTE, name, "stamped by a simulation's clock: set use_sim_time")


class CameraCheck:
    """Whether images are colour, large enough and of the right shape."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera

    def __call__(self, messages: list[Heard]) -> Iterator[Finding]:
        camera, raw = self._camera, messages[-1].raw
        try:
            image = wire.IMAGE_DECODERS[camera.message_type](raw).image
        except VlaError as error:
            yield Finding(FAULT, camera.name, f'its images cannot be used: {error}')
            return
        height, width = image.shape[:2]
        size, wanted = f'{width}x{height}', f'{camera.width}x{camera.height}'
        if width < camera.width or height < camera.height:
            text = f'{size} pixels would be enlarged to {wanted}: publish larger ones'
            yield Finding(FAULT, camera.name, text)
        shape = (width / height) / (camera.width / camera.height)
        if abs(math.log(shape)) > ASPECT:
            yield Finding(
                NOTE, camera.name, f'{size} pixels are squeezed into {wanted}: train with the same'
            )


class JointCheck:
    """Whether the joints are all there, in radians, and within their range."""

    def __init__(self, embodiment: Embodiment) -> None:
        self._e = embodiment

    def __call__(self, messages: list[Heard]) -> Iterator[Finding]:
        e, name = self._e, 'joint_states'
        try:
            samples = [wire.decode_joint_state(m.raw) for m in messages]
            values = np.array([s.take((*e.joint_names, e.gripper.joint)) for s in samples])
        except WireError as error:
            yield Finding(FAULT, name, f'{error}: correct joint_names or gripper.joint')
            return
        if not np.isfinite(values).all():
            yield Finding(FAULT, name, 'a position is not finite')
            return
        arm, gripper = values[:, :-1], values[:, -1]
        yield from self._arm(arm)
        yield from self._gripper(gripper)
        order = [n for n in samples[-1].names if n in e.joint_names]
        if order != list(e.joint_names):
            text = f'in the order {", ".join(order)}; they are taken by name'
            yield Finding(NOTE, name, text)

    def _arm(self, arm: np.ndarray) -> Iterator[Finding]:
        """arm: (N, J) positions."""
        e = self._e
        try:
            low, high = self._range()
        except VlaError as error:
            yield Finding(FAULT, 'urdf', str(error))
            return

        def beyond(values: np.ndarray) -> np.ndarray:
            slack = REACH * np.where(np.isfinite(high - low), high - low, 1.0)
            return ((values < low - slack) | (values > high + slack)).any(axis=0)

        out = beyond(arm)
        if not out.any():
            return
        names = ', '.join(name for name, is_out in zip(e.joint_names, out) if is_out)
        worst = arm[:, out].ravel()[np.abs(arm[:, out]).argmax()]
        mend = 'correct the limits of the embodiment or its URDF'
        if not beyond(np.deg2rad(arm)).any():
            if abs(worst) > 2 * math.pi:
                mend = 'that looks like degrees, radians are wanted (REP-103)'
            else:
                mend += '; or are these degrees?'
        is_are = 'is' if out.sum() == 1 else 'are'
        yield Finding(
            FAULT, 'joint_states', f'{names} {is_are} out of range ({worst:.4g}): {mend}'
        )

    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest (J,) position of the arm's joints, by the best source there is."""
        e = self._e
        count = len(e.joint_names)
        if e.urdf is not None:
            limits = ForwardKinematics(
                resolve_resource(e.urdf), e.joint_names, e.base_link, str(e.ee_link)
            ).limits()
            return limits.low, limits.high
        bounded = bounded_positions(e) if e.action.space == 'joint_velocity' else None
        if bounded is not None:
            return bounded.low, bounded.high
        if e.action.space == 'joint_position':
            return np.array(e.action.low[:count]), np.array(e.action.high[:count])
        return np.full(count, -2 * math.pi), np.full(count, 2 * math.pi)  # no arm turns further

    def _gripper(self, gripper: np.ndarray) -> Iterator[Finding]:
        """gripper: (N,) positions."""
        described = self._e.gripper
        closed, opened = described.closed_position, described.open_position

        def off(values: np.ndarray) -> float:
            """How far beyond the ends, in ranges."""
            opening = (values - closed) / (opened - closed)
            return float(np.maximum(-opening, opening - 1.0).max())

        if off(gripper) < GRIPPER_REACH:
            return
        slides = max(abs(closed), abs(opened)) < LONGEST_FINGER_M
        unit, wanted = ('millimetres', 'metres') if slides else ('degrees', 'radians')
        likely = {
            unit: gripper / 1000.0 if slides else np.deg2rad(gripper),
            'per cent': closed + gripper / 100.0 * (opened - closed),
        }
        units = [name for name, values in likely.items() if off(values) < GRIPPER_REACH]
        mend = 'correct open_position and closed_position'
        if units and off(gripper) > OTHER_UNIT:
            mend = f'that looks like {" or ".join(units)}, {wanted} are wanted'
        yield Finding(
            FAULT, 'joint_states',
            f'{described.joint} is at {gripper[-1]:.4g}, not within {closed:g} (closed) … '
            f'{opened:g} (open): {mend}',
        )  # fmt: skip
