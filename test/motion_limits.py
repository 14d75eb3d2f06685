"""Robots with all kinds of limits, adversarial wishes, and whether what was executed kept them."""

from __future__ import annotations

import numpy as np

from vla_alignment_ros.embodiment import ActionSpec, Camera, CommandSpec, Embodiment, Gripper

RATE_HZ = 10.0
SLACK = 1e-6  # relative to the limit; the guard itself allows itself less


def make_embodiment(space='ee_delta', **limits) -> Embodiment:
    joints = tuple(f'j{i}' for i in range(6))
    if space == 'ee_delta':
        low, high = (-0.05,) * 3 + (-0.25,) * 3 + (0.0,), (0.05,) * 3 + (0.25,) * 3 + (1.0,)
    else:
        low, high = (-2.0,) * 6 + (0.0,), (2.0,) * 6 + (1.0,)
    spec = {
        'space': space,
        'names': tuple('abcdefg'),
        'units': ('1',) * 7,
        'low': low,
        'high': high,
        'frame': 'base_link',
        **limits,
    }
    codec = 'twist' if space == 'ee_delta' else 'multi_array'
    topics = {'twist': 't', 'gripper': 'g'} if codec == 'twist' else {'command': 'c'}
    return Embodiment(
        name='guarded',
        cameras=(Camera('front', 'image', 32, 32),),
        joint_names=joints,
        gripper=Gripper('finger', 0.04, 0.0),
        action=ActionSpec(**spec),
        command=CommandSpec(codec, topics),
        rate_hz=RATE_HZ,
    )


LIMITS = [
    {},
    {'max_velocity': (0.3,) * 3 + (2.0,) * 3 + (2.0,)},
    {'max_velocity': (0.4,) * 7, 'max_acceleration': (1.0,) * 6 + (5.0,)},
    {'max_acceleration': (1.3,) * 7, 'max_jerk': (7.0,) * 7},
    {'max_velocity': (0.5,) * 7, 'max_acceleration': (0.7,) * 7, 'max_jerk': (2.0,) * 7},
]


def speeds(embodiment: Embodiment, actions: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(N, 7) per second, the first one from `start` (7,), an action at rest."""
    space = embodiment.action.space
    v = actions * {'ee_delta': RATE_HZ}.get(space, 1.0)
    absolute = np.arange(7) == 6 if space != 'joint_position' else np.ones(7, bool)
    moved = np.diff(np.vstack([start, actions]), axis=0) * RATE_HZ
    return np.where(absolute, moved, v)


def assert_within_limits(
    embodiment: Embodiment, actions: np.ndarray, start: np.ndarray
) -> dict[str, float]:
    """Of executed actions (N, 7) after `start` (7,): how much of each limit they used, 1 = all."""
    spec = embodiment.action
    low, high = np.array(spec.low), np.array(spec.high)
    assert (actions >= low - SLACK * (1 + np.abs(low))).all()
    assert (actions <= high + SLACK * (1 + np.abs(high))).all()
    v = speeds(embodiment, actions, start)
    a = np.diff(np.vstack([np.zeros(7), v]), axis=0) * RATE_HZ
    j = np.diff(np.vstack([np.zeros(7), a]), axis=0) * RATE_HZ
    middle, half = (high + low) / 2, (high - low) / 2
    used = {'range': float((np.abs(actions - middle) / half).max())}
    for name, values in (('max_velocity', v), ('max_acceleration', a), ('max_jerk', j)):
        limit = getattr(spec, name)
        if limit is not None:
            used[name] = float((np.abs(values) / np.array(limit)).max())
            assert used[name] <= 1 + SLACK, f'{name} broken {used[name]:.9f} times'
    return used


def assert_all_were_tried(used: list[dict[str, float]]) -> None:
    """What never came near a limit shows nothing about it."""
    for name in ('range', 'max_velocity', 'max_acceleration', 'max_jerk'):
        most = max(one.get(name, 0.0) for one in used)
        assert most > 0.999, f'{name}: only {most:.3f} of it was used'


def random_wishes(rng: np.random.Generator, embodiment: Embodiment, count: int) -> np.ndarray:
    """Adversarial: constant pushes, bang-bang, noise, huge numbers, each per dimension."""
    span = np.array(embodiment.action.high) - np.array(embodiment.action.low)
    middle = (np.array(embodiment.action.high) + np.array(embodiment.action.low)) / 2
    wishes = np.empty((count, 7))
    for dim in range(7):
        size = 10.0 ** rng.uniform(-2, 2)
        noise = rng.uniform(-1, 1, count)
        kind = rng.integers(5)
        shape = [
            noise,
            np.sign(noise),
            np.full(count, np.sign(noise[0])),
            np.repeat(np.sign(noise), rng.integers(1, 9))[:count],
            np.where(rng.random(count) < 0.1, noise * 1e30, 0.0),
        ][kind]
        wishes[:, dim] = middle[dim] + shape * size * span[dim]
    return wishes


RANGE = np.array([-1.0] * 5 + [-0.4]), np.array([1.0] * 5 + [0.6])  # rad, of the six joints
BOX = np.array([0.3, -0.2, 0.0]), np.array([0.7, 0.2, 0.4])  # m


EMBODIMENTS = [
    make_embodiment(space, **limits)
    for space in ('ee_delta', 'joint_position', 'joint_velocity')
    for limits in LIMITS
] + [
    make_embodiment(**limits, workspace_low=tuple(BOX[0]), workspace_high=tuple(BOX[1]))
    for limits in LIMITS
] + [
    make_embodiment(
        'joint_velocity', **limits, position_low=tuple(RANGE[0]), position_high=tuple(RANGE[1])
    )
    for limits in LIMITS
]
