"""The embodiment: everything that is particular to one robot, in one validated description.

It is written once as YAML (`config/embodiments/*.yaml`), used by every node, and stored inside
every bag and every checkpoint, so that nobody has to guess what an action means: its frame, its
units, its order and the sign of the gripper travel with the data.

Conventions: REP-103 (metres, radians, right-handed); gripper 1 = open, 0 = closed.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass, field
import hashlib
import json
import math
from pathlib import Path
import re
from typing import Any

import yaml

from vla_alignment_ros.calibration import Pinhole
from vla_alignment_ros.errors import EmbodimentError
from vla_alignment_ros.fields import build, differences, is_number, normalise
from vla_alignment_ros.resources import package_path as package_path
from vla_alignment_ros.resources import resolve_resource as resolve_resource
from vla_alignment_ros.resources import shipped_yaml

ACTION_DIM = 7

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
JOINT_STATE = 'sensor_msgs/msg/JointState'
BOOL = 'std_msgs/msg/Bool'
STRING = 'std_msgs/msg/String'
FLOAT64 = 'std_msgs/msg/Float64'
FLOAT64_MULTI_ARRAY = 'std_msgs/msg/Float64MultiArray'
TWIST_STAMPED = 'geometry_msgs/msg/TwistStamped'
JOINT_TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'

INTERVENTION_TOPIC = 'intervention'  # true: a person drives from the message on; latched
ACTION_SPACES = ('ee_delta', 'joint_position', 'joint_velocity')

# codec -> the roles of its topics and the message type each role carries
COMMAND_TOPICS: dict[str, dict[str, str]] = {
    'twist': {'twist': TWIST_STAMPED, 'gripper': FLOAT64},
    'joint_trajectory': {'command': JOINT_TRAJECTORY},
    'multi_array': {'command': FLOAT64_MULTI_ARRAY},
}
# roles that may be left out: a hand with a driver of its own beside the arm's controller
OPTIONAL_COMMAND_TOPICS = {
    codec: {'gripper': FLOAT64} for codec in ('joint_trajectory', 'multi_array')
}

_NAME = re.compile(r'[A-Za-z0-9_-]{1,64}')
_TOPIC = re.compile(r'~?/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')


@dataclass(frozen=True)
class Camera:
    """One camera: the topic it is on and the size, in pixels, that an observation has."""

    name: str
    topic: str
    width: int
    height: int
    compressed: bool = False  # True: the topic carries sensor_msgs/CompressedImage
    calibration: Pinhole | None = None  # where it is, if fixed and calibrated
    segmentation: str | None = None  # topic that says what each pixel shows, for training alone

    def __post_init__(self) -> None:
        normalise(self, 'camera')

    @property
    def message_type(self) -> str:
        return COMPRESSED_IMAGE if self.compressed else IMAGE


@dataclass(frozen=True)
class Gripper:
    """The gripper's joint in `joint_states` and its positions (m or rad) when open and closed."""

    joint: str
    open_position: float
    closed_position: float

    def __post_init__(self) -> None:
        normalise(self, 'gripper')

    def opening(self, position: float) -> float:
        """Joint position as opening: 1 = open, 0 = closed."""
        span = self.open_position - self.closed_position
        return (position - self.closed_position) / span

    def position(self, opening: float) -> float:
        """Opening (1 = open, 0 = closed) as joint position."""
        return self.closed_position + opening * (self.open_position - self.closed_position)


@dataclass(frozen=True)
class ActionSpec:
    """What the seven numbers of an action mean, and how far they may go.

    `low`/`high` bound one control step in `units`; the other limits are per second (velocity),
    per second² (acceleration) and per second³ (jerk). For `ee_delta` velocity means the rate of
    the delta itself (delta × rate). A limit that is absent is infinite. `workspace_low`/`high` is
    a box in metres for the hand (`ee_delta`); `position_low`/`high` is where each of `joint_names`
    may be, rad or m (`joint_velocity`; where absent, as the URDF says).
    """

    space: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    frame: str = 'base_link'
    max_velocity: tuple[float, ...] | None = None
    max_acceleration: tuple[float, ...] | None = None
    max_jerk: tuple[float, ...] | None = None
    workspace_low: tuple[float, ...] | None = None
    workspace_high: tuple[float, ...] | None = None
    position_low: tuple[float, ...] | None = None
    position_high: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        normalise(self, 'action')


@dataclass(frozen=True)
class CommandSpec:
    """How an action leaves the node: the codec and the topic of each of its roles."""

    codec: str
    topics: dict[str, str]


@dataclass(frozen=True)
class Embodiment:
    """One robot as the whole package sees it. Validated on construction."""

    name: str
    cameras: tuple[Camera, ...]
    joint_names: tuple[str, ...]
    gripper: Gripper
    action: ActionSpec
    command: CommandSpec
    rate_hz: float
    instruction_topic: str = 'instruction'
    joint_states_topic: str = 'joint_states'
    urdf: str | None = None
    base_link: str = 'base_link'
    ee_link: str | None = None
    max_age_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        normalise(self, 'embodiment')
        _check(self)

    # -- construction ---------------------------------------------------------------------------

    @classmethod
    def load(cls, path_or_name: str | Path) -> Embodiment:
        """From a YAML file, or by the name of a shipped one (`tabletop`)."""
        path = Path(path_or_name).expanduser()
        if not path.is_file():
            if not re.fullmatch(r'[A-Za-z0-9_-]+', str(path_or_name)):
                raise EmbodimentError(f'embodiment file not found: {path}')
            folder = package_path('config', 'embodiments')
            path = shipped_yaml(folder, str(path_or_name), 'embodiment named', EmbodimentError)
        try:
            data = yaml.safe_load(path.read_text(encoding='utf-8'))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise EmbodimentError(f'{path} is not valid YAML: {error}') from error
        try:
            return cls.from_dict(data)
        except EmbodimentError as error:
            raise EmbodimentError(f'{path}: {error}') from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Embodiment:
        """From the mapping that `to_dict` gives; unknown keys are refused, the allowed listed."""
        return _build(cls, data, 'embodiment')

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings: fit for YAML and JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def digest(self) -> str:
        """SHA-256 of the canonical description: equal exactly when the embodiments are equal."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: Embodiment) -> list[str]:
        """What `other` says differently, a line a field: 'rate_hz is 20.0 instead of 10.0'."""
        return differences(self.to_dict(), other.to_dict())

    # -- topics ---------------------------------------------------------------------------------

    def observation_topics(self) -> dict[str, str]:
        """Topic -> message type of all that an observation is made from."""
        topics = {camera.topic: camera.message_type for camera in self.cameras}
        topics[self.joint_states_topic] = JOINT_STATE
        topics[self.instruction_topic] = STRING
        return topics

    def command_topics(self) -> dict[str, str]:
        """Topic -> message type of the command codec."""
        codec = self.command.codec
        roles = {**COMMAND_TOPICS[codec], **OPTIONAL_COMMAND_TOPICS.get(codec, {})}
        return {topic: roles[role] for role, topic in self.command.topics.items()}

    def segmentation_topics(self) -> dict[str, str]:
        """Topic -> message type of what is recorded where there is a ground truth, never needed.

        A mono8 image beside a camera's: 0, or which name of the recording's note `labels`
        (counted from 1) a pixel shows.
        """
        return {c.segmentation: IMAGE for c in self.cameras if c.segmentation is not None}

    def topics(self) -> dict[str, str]:
        """Topic -> message type of everything a recording of this robot needs."""
        return {**self.observation_topics(), **self.command_topics()}

    def recorded_topics(self) -> dict[str, str]:
        """Topic -> message type of everything a recording of this robot holds."""
        return {**self.topics(), **self.segmentation_topics(), INTERVENTION_TOPIC: BOOL}

    def source_topics(self) -> dict[str, str]:
        """Source name ('front', 'joint_states', 'instruction', …) -> topic."""
        sources = {camera.name: camera.topic for camera in self.cameras}
        sources['joint_states'] = self.joint_states_topic
        sources['instruction'] = self.instruction_topic
        return sources


_NESTED = {'gripper': Gripper, 'action': ActionSpec, 'command': CommandSpec}
_OPTIONAL = {'calibration': Pinhole}
_MAPPINGS = ('topics', 'max_age_s')


def _build(cls: type, data: Any, where: str) -> Any:
    return build(cls, data, where, EmbodimentError, lambda f, given: _value(f.name, given, where))


def _value(key: str, value: Any, where: str) -> Any:
    if key == 'cameras':
        if not isinstance(value, (list, tuple)):
            raise EmbodimentError('cameras must be a list')
        return tuple(_build(Camera, item, f'cameras[{i}]') for i, item in enumerate(value))
    if key in _OPTIONAL:
        return None if value is None else _build(_OPTIONAL[key], value, f'{where}.{key}')
    if key in _NESTED:
        return _build(_NESTED[key], value, key)
    if key in _MAPPINGS:
        if not isinstance(value, Mapping):
            raise EmbodimentError(f'{where}.{key} must be a mapping')
        return dict(value)
    if isinstance(value, list):
        return tuple(value)
    return value


def _check_vector(name: str, values: Any, length: int, positive: bool = False) -> None:
    if not isinstance(values, tuple) or len(values) != length:
        raise EmbodimentError(f'action.{name} needs {length} values, got {values!r}')
    if not all(is_number(v) for v in values):
        raise EmbodimentError(f'action.{name} must hold numbers, got {values!r}')
    if positive and not all(v > 0 for v in values):
        raise EmbodimentError(f'action.{name} must be positive, got {values!r}')


def _check_action(spec: ActionSpec) -> None:
    if spec.space not in ACTION_SPACES:
        raise EmbodimentError(
            f'action.space {spec.space!r} is unknown; allowed: {", ".join(ACTION_SPACES)}'
        )
    for name in ('names', 'units'):
        values = getattr(spec, name)
        if not isinstance(values, tuple) or len(values) != ACTION_DIM:
            raise EmbodimentError(f'action.{name} needs {ACTION_DIM} entries, got {values!r}')
    if len(set(spec.names)) != ACTION_DIM:
        raise EmbodimentError(f'action.names are not distinct: {spec.names!r}')
    for name in ('low', 'high'):
        _check_vector(name, getattr(spec, name), ACTION_DIM)
    if not all(low < high for low, high in zip(spec.low, spec.high)):
        raise EmbodimentError(f'action.low must be below action.high: {spec.low} {spec.high}')
    for name in ('max_velocity', 'max_acceleration', 'max_jerk'):
        if getattr(spec, name) is not None:
            _check_vector(name, getattr(spec, name), ACTION_DIM, positive=True)
    _check_pair(spec, 'workspace', 3)


def _check_pair(spec: ActionSpec, name: str, length: int) -> None:
    low, high = getattr(spec, f'{name}_low'), getattr(spec, f'{name}_high')
    if (low is None) != (high is None):
        raise EmbodimentError(f'give both action.{name}_low and action.{name}_high, or none')
    if low is not None:
        _check_vector(f'{name}_low', low, length)
        _check_vector(f'{name}_high', high, length)
        if not all(a < b for a, b in zip(low, high)):
            raise EmbodimentError(f'action.{name}_low must be below action.{name}_high')


def _check_joint_action(e: Embodiment) -> None:
    spec, count = e.action, len(e.joint_names)
    if count > ACTION_DIM:
        raise EmbodimentError(f'an action moves {ACTION_DIM} joints; joint_names has {count}')
    beyond = slice(count, ACTION_DIM - 1)  # an arm of few joints leaves numbers unused
    for name, low, high in zip(spec.names[beyond], spec.low[beyond], spec.high[beyond]):
        if not name.startswith('unused') or not low <= 0.0 <= high:
            raise EmbodimentError(
                f'joint_names has {count}, so action {name} moves no joint: name what is missing, '
                f"or call that number 'unused' and let its low and high hold 0 (-0.001, 0.001)"
            )


def _check_topic(topic: Any, where: str) -> None:
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
        raise EmbodimentError(f'{where}: {topic!r} is not a ROS topic name')


def _check(e: Embodiment) -> None:
    if not isinstance(e.name, str) or not _NAME.fullmatch(e.name):
        raise EmbodimentError(f'name must be letters, digits, "_" or "-", got {e.name!r}')
    if not e.cameras:
        raise EmbodimentError('cameras: at least one is needed')
    for camera in e.cameras:
        if not _NAME.fullmatch(camera.name):  # it becomes a part of file names
            raise EmbodimentError(
                f'camera names must be letters, digits, "_" or "-", got {camera.name!r}'
            )
        _check_topic(camera.topic, f'camera {camera.name!r}')
        if camera.segmentation is not None:
            _check_topic(camera.segmentation, f'camera {camera.name!r}: segmentation')
        for side in (camera.width, camera.height):
            if not isinstance(side, int) or isinstance(side, bool) or not 8 <= side <= 4096:
                raise EmbodimentError(
                    f'camera {camera.name!r}: width and height must be 8…4096 pixels, got {side!r}'
                )
    names = [camera.name for camera in e.cameras]
    if len(set(names)) != len(names) or {'joint_states', 'instruction'} & set(names):
        raise EmbodimentError(f'camera names must be distinct and not a reserved word: {names}')
    if not e.joint_names or len(set(e.joint_names)) != len(e.joint_names):
        raise EmbodimentError(f'joint_names must be distinct and not empty: {e.joint_names!r}')
    span = (e.gripper.open_position, e.gripper.closed_position)
    if not all(is_number(v) and math.isfinite(v) for v in span) or span[0] == span[1]:
        raise EmbodimentError('gripper.open_position and closed_position must be two numbers')
    if not is_number(e.rate_hz) or not 0 < e.rate_hz <= 1000:
        raise EmbodimentError(f'rate_hz must be in (0, 1000], got {e.rate_hz!r}')
    _check_action(e.action)
    _check_pair(e.action, 'position', len(e.joint_names))
    if e.action.position_low is not None and e.action.space != 'joint_velocity':
        raise EmbodimentError(
            f'action.position_low and position_high are for joint_velocity; {e.action.space} has '
            'low and high, and a workspace box'
        )
    if e.action.space != 'ee_delta':
        _check_joint_action(e)
    roles = COMMAND_TOPICS.get(e.command.codec)
    if roles is None:
        raise EmbodimentError(
            f'command.codec {e.command.codec!r} is unknown; allowed: {", ".join(COMMAND_TOPICS)}'
        )
    optional = OPTIONAL_COMMAND_TOPICS.get(e.command.codec, {})
    if not set(roles) <= set(e.command.topics) <= {*roles, *optional}:
        raise EmbodimentError(
            f'command.topics for codec {e.command.codec} must name '
            f'{", ".join(roles)}{"".join(f" and may name {role}" for role in optional)}; '
            f'got {", ".join(map(str, e.command.topics)) or "none"}'
        )
    for role, topic in e.command.topics.items():
        _check_topic(topic, f'command.topics.{role}')
    if (e.action.space == 'ee_delta') != (e.command.codec == 'twist'):
        raise EmbodimentError(
            f'codec {e.command.codec} cannot carry {e.action.space}; '
            f'ee_delta goes with twist, joint spaces with joint_trajectory or multi_array'
        )
    _check_topic(e.instruction_topic, 'instruction_topic')
    _check_topic(e.joint_states_topic, 'joint_states_topic')
    topics = [*e.source_topics().values(), *e.command_topics(), INTERVENTION_TOPIC]
    topics += [c.segmentation for c in e.cameras if c.segmentation is not None]
    if len(set(topics)) != len(topics):
        raise EmbodimentError(f'two roles share one topic: {topics}')
    unknown = set(e.max_age_s) - set(e.source_topics())
    if unknown:
        raise EmbodimentError(
            f'max_age_s names unknown source {", ".join(sorted(unknown))}; '
            f'allowed: {", ".join(e.source_topics())}'
        )
    if not all(is_number(v) and v > 0 for v in e.max_age_s.values()):
        raise EmbodimentError(f'max_age_s must be positive seconds: {e.max_age_s}')
    if e.urdf is not None and not e.ee_link:
        raise EmbodimentError('urdf is given, so ee_link must name the end-effector frame')
