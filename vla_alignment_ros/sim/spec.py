"""What one episode is: a frozen, JSON-able description from which the world is rebuilt exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vla_alignment_ros.errors import SimulationError

TASKS = ('pick', 'place', 'push')


@dataclass(frozen=True)
class ObjectSpec:
    """One object on the table: what it is and where it starts (base_link; m, rad)."""

    color: str
    shape: str
    x_m: float
    y_m: float
    yaw_rad: float

    @property
    def name(self) -> str:
        """How the object is called everywhere, for example 'red cube'."""
        return f'{self.color} {self.shape}'


@dataclass(frozen=True)
class SceneSpec:
    """Everything that is visible: objects, trays, light, camera, where the arm starts."""

    objects: tuple[ObjectSpec, ...]
    left_tray: str  # colour of the tray on the robot's left (+y); the other is on the right
    home_xyz_m: tuple[float, float, float]
    home_yaw_rad: float
    light_xyz_m: tuple[float, float, float]
    light_intensity: float
    camera_offset_m: tuple[float, float, float]  # of the front camera's position
    camera_aim_offset_m: tuple[float, float, float]  # of the point it looks at

    def object(self, name: str) -> ObjectSpec:
        for item in self.objects:
            if item.name == name:
                return item
        raise SimulationError(
            f'no {name!r} in this scene; it has {", ".join(o.name for o in self.objects)}'
        )


def object_names(scene: SceneSpec) -> tuple[str, ...]:
    """What can be named in a scene, in the order of the ids of a segmentation: objects, trays."""
    return (*(item.name for item in scene.objects), 'white tray', 'black tray')


@dataclass(frozen=True)
class Disturbance:
    """A push that the arm suffers, or a gripper that disobeys, for a few control steps."""

    start_step: int
    steps: int
    linear_m_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw_rad_s: float = 0.0
    gripper: float | None = None  # forced opening 0..1, or None to obey the command


@dataclass(frozen=True)
class DisturbanceSpec:
    """What is added to commands before they are executed; never part of the recorded command."""

    noise_m_s: float = 0.0  # standard deviation of white noise on the linear command
    noise_rad_s: float = 0.0  # the same on the yaw rate
    events: tuple[Disturbance, ...] = ()


@dataclass(frozen=True)
class EpisodeSpec:
    """One episode. `seed` counts within `split`; the same two always give the same episode."""

    seed: int
    split: str
    task: str  # 'pick' | 'place' | 'push'
    instruction: str
    target: str  # name of the object the instruction names (not in the scene if split 'absent')
    scene: SceneSpec
    tray: str | None = None  # colour of the tray, for 'place'
    side: str | None = None  # 'left' (+y) or 'right' (-y), for 'push'
    speed_m_s: float = 0.2  # how fast the expert moves
    disturbance: DisturbanceSpec = DisturbanceSpec()

    @property
    def target_present(self) -> bool:
        return any(item.name == self.target for item in self.scene.objects)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EpisodeSpec:
        """The inverse of `to_dict`, also after a trip through JSON."""
        try:
            scene = dict(data['scene'])
            scene['objects'] = tuple(ObjectSpec(**item) for item in scene['objects'])
            disturbance = dict(data.get('disturbance') or {})
            disturbance['events'] = tuple(
                Disturbance(**_tuples(event)) for event in disturbance.get('events', ())
            )
            known = {field.name for field in fields(cls)}
            if unknown := set(data) - known:
                raise SimulationError(f'unknown keys in an episode: {sorted(unknown)}')
            return cls(
                **{
                    **data,
                    'scene': SceneSpec(**_tuples(scene)),
                    'disturbance': DisturbanceSpec(**disturbance),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SimulationError(f'not a valid episode description: {error}') from error


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
