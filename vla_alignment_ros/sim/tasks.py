"""Draws episodes: `sample_episode(seed, split)` always gives the same episode for the same two."""

from __future__ import annotations

import math

import numpy as np

from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.sim.phrases import load_splits, render_phrase, SplitConfig
from vla_alignment_ros.sim.spec import (
    Disturbance,
    DisturbanceSpec,
    EpisodeSpec,
    ObjectSpec,
    SceneSpec,
    TASKS,
)

OBJECT_X_M = (0.465, 0.635)
OBJECT_Y_M = (-0.155, 0.155)
MIN_SPACING_M = 0.092  # the open gripper fits between two objects
MAX_YAW_RAD = 0.6
# beside the pushed object: room for the closed gripper behind it, and free table before it
PUSH_ROOM_BEHIND_M, PUSH_ROOM_AHEAD_M, PUSH_ROOM_SIDE_M = 0.10, 0.155, 0.066
PUSH_DISTANCE_M = 0.08
PUSH_Y_LIMIT_M = 0.205  # a pushed object must stay inside the picture

HOME_XYZ_M = (0.44, 0.0, 0.21)
HOME_RANGE_M = (0.08, 0.08, 0.04)
HOME_YAW_RAD = 0.3

TRAINING_SPLITS = ('train', 'val')
DISTURBED_FRACTION = 0.5
_PLACEMENTS = 400  # attempts to place the same objects before others are drawn


def sample_episode(seed: int, split: str = 'train', *, disturbed: bool | None = None):
    """Draw one episode.

    `disturbed` overrides whether commands are disturbed on execution: by default some of the
    training episodes are and no evaluation episode is. Returns an `EpisodeSpec`.
    """
    config = load_splits()
    # 'swapped' comes in pairs: seeds 2k and 2k+1 share scene and task but not the object named
    stream = config.stream_seed(split, seed - seed % 2 if split == 'swapped' else seed)
    rng = np.random.default_rng(stream)
    task = str(rng.choice(TASKS, p=_weights(config)))
    tray = str(rng.choice(config.trays)) if task == 'place' else None
    side = str(rng.choice(config.sides)) if task == 'push' else None
    names = _Objects(rng, config, split)
    for _ in range(200):
        pairs, asked = names.draw()
        objects = _place(rng, pairs, len(asked) if task == 'push' else 0, side)
        if objects is not None:
            break
    else:
        raise SimulationError(f'no room for the objects of seed {seed} of {split!r}')
    scene = _scene(rng, objects, config)
    phrases = config.held_out_phrases if split == 'unseen_phrases' else config.train_phrases
    which = int(rng.integers(len(phrases[task])))
    target = ' '.join(asked[seed % 2] if split == 'swapped' else asked[0])
    speed = float(rng.uniform(0.17, 0.25))
    if disturbed is None:
        disturbed = split in TRAINING_SPLITS
    return EpisodeSpec(
        seed=seed,
        split=split,
        task=task,
        instruction=render_phrase(phrases[task][which], target, tray, side),
        target=target,
        scene=scene,
        tray=tray,
        side=side,
        speed_m_s=speed,
        disturbance=_disturbance(rng) if disturbed else DisturbanceSpec(),
    )


def _weights(config: SplitConfig) -> list[float]:
    total = sum(config.task_weights.values())
    return [config.task_weights[task] / total for task in TASKS]


class _Objects:
    """Draws which objects are on the table and which of them the sentence may name."""

    def __init__(self, rng: np.random.Generator, config: SplitConfig, split: str) -> None:
        self._rng, self._split = rng, split
        self._targets = config.train_pairs
        self._others = config.train_pairs
        if split == 'unseen_objects':
            self._targets = tuple(sorted(config.held_out_pairs))
            self._others = config.pairs

    def draw(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Pairs on the table, and the pairs named in turn; the named ones come first."""
        rng = self._rng
        target = self._pick(self._targets)
        pairs = [target]
        count = int(rng.integers(2, 5))
        while len(pairs) < count:
            pairs.append(self._distractor(target, pairs))
        if self._split == 'absent':
            # the named object is missing, what looks like it is there
            pairs.append(self._distractor(target, pairs))
            return pairs[1:], [target]
        if self._split == 'swapped':
            return pairs, pairs[:2]
        return pairs, [target]

    def _pick(self, pairs) -> tuple[str, str]:
        return pairs[int(self._rng.integers(len(pairs)))]

    def _distractor(self, target, taken) -> tuple[str, str]:
        """Mostly shares the colour or the shape with the target, so that both words matter."""
        free = [pair for pair in self._others if pair not in taken]
        draw = self._rng.random()
        index = 0 if draw < 0.4 else 1 if draw < 0.8 else None
        alike = [] if index is None else [pair for pair in free if pair[index] == target[index]]
        return self._pick(alike or free)


def _place(rng, pairs, pushable: int, side: str | None) -> tuple[ObjectSpec, ...] | None:
    """Random poses, apart from each other; the first `pushable` ones have room to be pushed."""
    for _ in range(_PLACEMENTS):
        points: list[np.ndarray] = []
        for _ in range(30 * len(pairs)):
            point = np.array([rng.uniform(*OBJECT_X_M), rng.uniform(*OBJECT_Y_M)])
            if all(np.linalg.norm(point - other) >= MIN_SPACING_M for other in points):
                points.append(point)
                if len(points) == len(pairs):
                    break
        if len(points) < len(pairs):
            continue
        if all(_can_push(points, index, side) for index in range(pushable)):
            order = rng.permutation(len(pairs))  # list order says nothing about the target
            yaws = rng.uniform(-MAX_YAW_RAD, MAX_YAW_RAD, len(pairs))
            return tuple(
                ObjectSpec(*pairs[i], float(points[i][0]), float(points[i][1]), float(yaws[i]))
                for i in order
            )
    return None


def _can_push(points: list[np.ndarray], index: int, side: str | None) -> bool:
    sign = 1.0 if side == 'left' else -1.0
    x, y = points[index]
    if sign * y + PUSH_DISTANCE_M > PUSH_Y_LIMIT_M:
        return False
    for other in points[:index] + points[index + 1 :]:
        ahead = sign * (other[1] - y)
        beside = abs(other[0] - x) < PUSH_ROOM_SIDE_M
        if beside and -PUSH_ROOM_BEHIND_M < ahead < PUSH_ROOM_AHEAD_M:
            return False
    return True


def _scene(rng, objects: tuple[ObjectSpec, ...], config: SplitConfig) -> SceneSpec:
    angle = rng.uniform(0, 2 * math.pi)
    tilt = rng.uniform(0.1, 0.5)
    lamp = 2.0 * np.array(
        [math.sin(tilt) * math.cos(angle), math.sin(tilt) * math.sin(angle), math.cos(tilt)]
    )
    home = np.asarray(HOME_XYZ_M) + rng.uniform(-1, 1, 3) * HOME_RANGE_M
    return SceneSpec(
        objects=objects,
        left_tray=str(rng.choice(config.trays)),
        home_xyz_m=_floats(home),
        home_yaw_rad=float(rng.uniform(-HOME_YAW_RAD, HOME_YAW_RAD)),
        light_xyz_m=_floats(lamp),
        light_intensity=float(rng.uniform(0.35, 0.55)),
        camera_offset_m=_floats(rng.uniform(-0.02, 0.02, 3)),
        camera_aim_offset_m=_floats(rng.uniform(-0.008, 0.008, 3)),
    )


def _disturbance(rng: np.random.Generator) -> DisturbanceSpec:
    """Noise in every disturbed episode; in half of the training episodes also rough events."""
    noise = DisturbanceSpec(
        noise_m_s=float(rng.uniform(0.0, 0.04)), noise_rad_s=float(rng.uniform(0.0, 0.12))
    )
    if rng.random() > DISTURBED_FRACTION:
        return noise
    events = []
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(2, 45))
        kind = rng.random()
        if kind < 0.75:  # a shove
            direction = rng.normal(size=3) * (1.0, 1.0, 0.6)
            speed = rng.uniform(0.08, 0.25) / np.linalg.norm(direction)
            events.append(
                Disturbance(
                    start,
                    int(rng.integers(2, 6)),
                    linear_m_s=_floats(direction * speed),
                    yaw_rad_s=float(rng.uniform(-0.8, 0.8)),
                )
            )
        else:  # the gripper snaps shut too early, or lets go of what it holds
            events.append(Disturbance(start, int(rng.integers(2, 5)), gripper=float(kind < 0.87)))
    return DisturbanceSpec(noise.noise_m_s, noise.noise_rad_s, tuple(events))


def _floats(values) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
