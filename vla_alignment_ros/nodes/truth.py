"""What the simulator knows, as one JSON line: for the scripted expert and for judges.

`TruthView` has the part of a `TabletopWorld` that `Expert` reads. Floats travel as their shortest
exact decimal form, so an expert behind a topic computes the very actions that it would beside the
world.
"""

from __future__ import annotations

from dataclasses import asdict
import json
from typing import Any

import numpy as np

from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.sim.judge import EpisodeStatus, ObjectState
from vla_alignment_ros.sim.spec import EpisodeSpec
from vla_alignment_ros.sim.world import SceneConfig, TabletopWorld


def encode_truth(world: TabletopWorld, episode: int) -> str:
    """Everything true of `world` now; `episode` counts resets."""
    position, rotation = world.ee_pose()
    truth = {
        'episode': episode,
        'ts_ns': world.time_ns,
        'spec': world.spec.to_dict(),
        'rate_hz': world.config.rate_hz,
        'max_steps': world.config.max_steps,
        'ee_position': position,
        'ee_rotation': rotation,
        'gripper_opening': world.gripper_opening(),
        'objects': [asdict(item) for item in world.objects.values()],
        'status': asdict(world.status()),
    }
    return json.dumps(truth, default=_plain, separators=(',', ':'))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f'{type(value).__name__} has no place in the truth')


class TruthView:
    """The truth as it was last sent, read like a world; `update` before anything else."""

    episode = 0  # 0 before the first update

    def update(self, text: str) -> None:
        """Take a newer truth.

        Raises:
            SimulationError: the text is not what `encode_truth` writes; nothing has changed.
        """
        try:
            data = json.loads(text)
            spec = EpisodeSpec.from_dict(data['spec'])
            config = SceneConfig(rate_hz=data['rate_hz'], max_steps=data['max_steps'])
            ee = (np.array(data['ee_position']), np.array(data['ee_rotation']))
            opening = float(data['gripper_opening'])
            objects = {item['name']: _object(item) for item in data['objects']}
            touched = tuple(data['status']['touched'])
            status = EpisodeStatus(**{**data['status'], 'touched': touched})
            episode, time_ns = int(data['episode']), int(data['ts_ns'])
        except (ValueError, KeyError, TypeError) as error:
            raise SimulationError(f'not a simulator state: {error}') from error
        self.episode, self.time_ns, self.spec, self.config = episode, time_ns, spec, config
        self._ee, self._opening, self.objects, self._status = ee, opening, objects, status

    def status(self) -> EpisodeStatus:
        """How the episode stands."""
        return self._status

    def ee_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Pose of tool0 in base_link: position (3,) m and rotation (3, 3)."""
        return self._ee[0].copy(), self._ee[1].copy()

    def gripper_opening(self) -> float:
        """Measured opening 0 … 1."""
        return self._opening


def _object(item: dict[str, Any]) -> ObjectState:
    arrays = {name: np.array(item[name]) for name in ('position', 'rotation')}
    return ObjectState(**{**item, **arrays, 'fingers': frozenset(item['fingers'])})
