"""Which feature of a LeRobot folder is which camera, joint or action of the robot.

Names that are equal need no word: `observation.images.<camera>` is that camera, a number of
`observation.state` called like a joint is that joint (rad, m), `gripper_opening` the gripper's
opening, and the numbers of `action` are the embodiment's seven where they are called like them.
Everything else is said in a file, because units and signs cannot be guessed:

    cameras:
      front: observation.images.top
    state:                  # every joint, and the gripper's joint or gripper_opening
      shoulder: {at: shoulder_pan.pos, scale: 0.0174533}      # by its name: degrees to rad
      elbow: {feature: observation.joints, at: 1}             # by its place in another feature
      gripper_opening: {at: gripper.pos, scale: 0.01}         # 0..100 to 0..1
    action:                 # every one of the seven
      gripper: {at: 6, scale: -1, offset: 1}                  # 1 is closed there
      wrist_roll: {constant: 0}                               # that robot has none

A number is `scale * value + offset`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from dataclasses import dataclass, field
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla_alignment_ros.data.lerobot.layout import ACTION, Feature, IMAGES, Info, STATE
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError, DatasetError
from vla_alignment_ros.fields import build, is_number

GRIPPER_OPENING = 'gripper_opening'  # in a state: 0..1, where a joint would have rad or m
RATE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Number:
    """Where one number of a state or an action is: a place in a feature, or a constant."""

    at: int | str | None = None  # index, or the name that the folder gives it
    feature: str | None = None  # `observation.state` or `action` unless said
    scale: float = 1.0
    offset: float = 0.0
    constant: float | None = None


@dataclass(frozen=True)
class LeRobotKeys:
    """What a file of keys says; everything left out is matched by name."""

    cameras: dict[str, str] = field(default_factory=dict)  # camera -> feature
    state: dict[str, Number] = field(default_factory=dict)  # joint or gripper_opening -> number
    action: dict[str, Number] = field(default_factory=dict)  # name of the action -> number

    @classmethod
    def load(cls, path: Path) -> LeRobotKeys:
        """From a YAML file; ConfigError where it is none, or has keys that are not known."""
        try:
            data = yaml.safe_load(path.read_text(encoding='utf-8'))
        except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f'{path} cannot be read as YAML: {error}') from error
        try:
            return cls.from_dict(data)
        except ConfigError as error:
            raise ConfigError(f'{path}: {error}') from error

    @classmethod
    def from_dict(cls, data: Any) -> LeRobotKeys:
        """From plain mappings; unknown keys are refused with the allowed ones listed."""
        return build(cls, data, 'keys', ConfigError, lambda f, given: _section(f.name, given))

    def digest(self) -> str:
        """Text that is equal exactly when the keys are."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def _section(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f'keys.{name} must be a mapping, got {given!r}')
    if name != 'cameras':
        return {str(key): _number(item, f'keys.{name}.{key}') for key, item in given.items()}
    if not all(isinstance(feature, str) for feature in given.values()):
        raise ConfigError(f'keys.cameras must name a feature for each camera, got {given!r}')
    return {str(camera): feature for camera, feature in given.items()}


def _number(item: Any, where: str) -> Number:
    number = build(Number, item, where, ConfigError, lambda f, given: given)
    if (number.constant is None) == (number.at is None):
        raise ConfigError(f'{where} needs either "at" or "constant"')
    if number.at is not None and type(number.at) not in (int, str):
        raise ConfigError(f'{where}.at must be an index or a name, got {number.at!r}')
    if number.feature is not None and not isinstance(number.feature, str):
        raise ConfigError(f'{where}.feature must be the name of a feature')
    values = (number.scale, number.offset, number.constant or 0.0)
    if not all(is_number(v) and abs(v) != float('inf') for v in values):
        raise ConfigError(f'{where}: scale, offset and constant must be numbers')
    return number


@dataclass(frozen=True)
class Column:
    """One number of every row: `scale * feature[place] + offset`; without a feature, `offset`."""

    feature: str | None
    place: int = 0
    scale: float = 1.0
    offset: float = 0.0

    def of(self, numbers: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
        """(T,) float64 from feature -> (T, D)."""
        if self.feature is None:
            return np.full(rows, self.offset)
        values = numbers[self.feature][:, self.place].astype(np.float64)
        if self.scale == 1.0 and self.offset == 0.0:
            return values  # not even -0.0 becomes 0.0
        return self.scale * values + self.offset


@dataclass(frozen=True)
class Plan:
    """Where everything is, resolved against one folder."""

    cameras: dict[str, str]  # camera -> feature
    joints: tuple[Column, ...]  # in the order of the embodiment's joint_names
    gripper: Column
    gripper_is_opening: bool  # else the position of its joint
    action: tuple[Column, ...]  # the seven

    @property
    def numeric(self) -> list[str]:
        """The features that hold numbers."""
        columns = (*self.joints, self.gripper, *self.action)
        return sorted({c.feature for c in columns if c.feature is not None})


def plan(info: Info, embodiment: Embodiment, keys: LeRobotKeys, where: str) -> Plan:
    """Find every camera, joint and action of a robot among the features of a folder.

    Args:
        where: the folder, for errors.

    Raises:
        DatasetError: something is not found, or has another shape or rate; all of it is named.
    """
    if abs(info.fps - embodiment.rate_hz) > RATE_TOLERANCE * info.fps:
        raise DatasetError(
            f'{where} has {info.fps:g} frames a second, embodiment {embodiment.name!r} says '
            f'rate_hz {embodiment.rate_hz:g}: an action is one control step, so write rate_hz: '
            f'{info.fps:g} into the embodiment (and its limits per step to match)'
        )
    finder = _Finder(info, keys)
    cameras = {c.name: finder.camera(c.name) for c in embodiment.cameras}
    joints = [finder.number(name, keys.state, STATE) for name in embodiment.joint_names]
    names = (embodiment.gripper.joint, GRIPPER_OPENING)
    gripper = next(
        (name for table in (keys.state, finder.names(STATE)) for name in names if name in table),
        embodiment.gripper.joint,
    )
    gripper_column = finder.number(gripper, keys.state, STATE)
    action = [finder.number(name, keys.action, ACTION) for name in embodiment.action.names]
    known = {*embodiment.joint_names, *names}
    finder.refuse_unknown('cameras', keys.cameras, cameras)
    finder.refuse_unknown('state', keys.state, known)
    finder.refuse_unknown('action', keys.action, embodiment.action.names)
    if problems := finder.problems():
        raise DatasetError(
            f'{where} does not say where everything of embodiment {embodiment.name!r} is: '
            f'{"; ".join(problems)}. Its features are {finder.listing()}. Name an '
            f'embodiment that fits, or say in a file which is which (--lerobot-keys, '
            f'docs/lerobot.md)'
        )
    return Plan(
        cameras, tuple(joints), gripper_column, gripper == GRIPPER_OPENING, tuple(action)
    )


class _Finder:
    """Looks things up, and keeps what it did not find, to be said at once."""

    def __init__(self, info: Info, keys: LeRobotKeys) -> None:
        self._features, self._keys = info.features, keys
        self._problems: list[str] = []
        self._unplaced: dict[str, list[str]] = {}  # feature -> numbers that it has not

    def names(self, feature: str) -> Sequence[str]:
        found = self._features.get(feature)
        return () if found is None or found.names is None else found.names

    def camera(self, camera: str) -> str:
        key = self._keys.cameras.get(camera, f'{IMAGES}{camera}')
        feature = self._features.get(key)
        if feature is None or not feature.is_image:
            self._problems.append(f'no images {key!r} for camera {camera!r}')
        elif feature.depth:
            self._problems.append(f'{key!r} for camera {camera!r} is depth, which has no colour')
        elif len(feature.shape) != 3:
            self._problems.append(f'{key!r} for camera {camera!r} has the shape {feature.shape}')
        return key

    def number(self, name: str, given: Mapping[str, Number], default: str) -> Column:
        number = given.get(name) or Number(at=name)
        if number.constant is not None:
            return Column(None, offset=float(number.constant))
        key = number.feature or default
        feature = self._features.get(key)
        place = None if feature is None else _place(feature, number.at)
        if place is None:
            at = '' if number.at == name else f' (at {number.at!r})'
            self._unplaced.setdefault(key, []).append(f'{name}{at}')
            return Column(None)
        return Column(key, place, float(number.scale), float(number.offset))

    def refuse_unknown(self, section: str, given: Mapping[str, Any], known: Any) -> None:
        for name in given:
            if name not in known:
                self._problems.append(f'keys.{section}.{name} is nothing that the robot has')

    def problems(self) -> list[str]:
        numbers = [f'no {", ".join(names)} in {key!r}' for key, names in self._unplaced.items()]
        return self._problems + numbers

    def listing(self) -> str:
        parts = []
        for key, feature in self._features.items():
            names = f' ({", ".join(feature.names)})' if feature.names and feature.size else ''
            parts.append(f'{key} {feature.dtype}{list(feature.shape)}{names}')
        return ', '.join(parts)


def _place(feature: Feature, at: int | str | None) -> int | None:
    if feature.size is None:
        return None
    if isinstance(at, int):
        return at if 0 <= at < feature.size else None
    return feature.names.index(at) if feature.names and at in feature.names else None


def image_size(feature: Feature) -> tuple[int, int]:
    """Height and width of a camera's feature, channels last or first."""
    a, b, c = feature.shape
    return (b, c) if a in (1, 3, 4) and c not in (1, 3, 4) else (a, b)
