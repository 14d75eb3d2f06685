"""The simulated world as the simulator node runs it: episodes one after the other, as messages.

No ROS in here. Time never runs backwards: every episode begins later than the last one ended, so
a stamp names one moment of one episode, and a late command can never be taken for a new one.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes.truth import encode_truth
from vla_alignment_ros.sim.spec import EpisodeSpec
from vla_alignment_ros.sim.stream import (
    apply_action,
    CAMERA_INFO,
    camera_info_messages,
    instruction_message,
    observation_messages,
)
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import SceneConfig, TabletopWorld

CLOCK_TOPIC = '/clock'
STATE_TOPIC = '~/state'
SUCCESS_TOPIC = '~/success'
OVERVIEW_TOPIC = '~/overview/image_raw'
EPISODE_GAP_NS = 10_000_000_000  # between the stamps of two episodes: nobody takes them for one


class WorldHost:
    """Owns the world. All calls from one thread: the renderer's context lives in it."""

    def __init__(
        self,
        embodiment: Embodiment,
        disturbances: bool = True,
        command_timeout_s: float = 0.5,
        overview_size: tuple[int, int] = (320, 240),
    ) -> None:
        if embodiment.action.space != 'ee_delta':
            raise ConfigError(
                f"embodiment '{embodiment.name}' commands {embodiment.action.space}; the "
                f'simulated arm takes ee_delta: use the embodiment tabletop'
            )
        self.embodiment = embodiment
        self._timeout_ns = round(command_timeout_s * 1e9)
        self._overview_size = overview_size
        self._world = TabletopWorld(
            SceneConfig(rate_hz=embodiment.rate_hz, disturbances=disturbances)
        )
        self.episode = 0  # counts resets
        self.answered_ns = 0  # stamp of the observation that the last step answered
        self._start: dict[str, np.ndarray] = {}
        self._command: tuple[int, np.ndarray] | None = None  # since when, action (7,)

    @staticmethod
    def topics(embodiment: Embodiment) -> dict[str, str]:
        """Topic -> type of everything that is published, but the instruction."""
        topics = {
            CLOCK_TOPIC: 'rosgraph_msgs/msg/Clock',
            STATE_TOPIC: 'std_msgs/msg/String',
            SUCCESS_TOPIC: 'std_msgs/msg/Bool',
            OVERVIEW_TOPIC: 'sensor_msgs/msg/Image',
        }
        for camera in embodiment.cameras:
            folder = camera.topic.rpartition('/')[0]
            topics[f'{folder}/camera_info' if folder else 'camera_info'] = CAMERA_INFO
        observed = embodiment.observation_topics()
        del observed[embodiment.instruction_topic]
        return topics | observed | embodiment.segmentation_topics()

    @property
    def rate_hz(self) -> float:
        """How often `tick` wants to be called, per simulated second."""
        return self.embodiment.rate_hz

    @property
    def whole(self) -> bool:
        """Whether a whole control period has passed, so that cameras and truth are due."""
        return self._world.between_steps

    @property
    def time_ns(self) -> int:
        """Stamp of the present observation; 0 before the first episode."""
        return self._world.time_ns if self.episode else 0

    @property
    def spec(self) -> EpisodeSpec:
        """The episode that runs."""
        return self._world.spec

    def close(self) -> None:
        """Free the renderer."""
        self._world.close()

    def reset(self, seed: int, split: str) -> EpisodeSpec:
        """Begin the episode that `seed` draws from `split`."""
        spec = sample_episode(seed, split)
        if self.episode:
            later = self._world.time_ns + EPISODE_GAP_NS
            self._world.config = dataclasses.replace(self._world.config, start_time_ns=later)
        self._world.reset(spec)
        self.episode += 1
        self.answered_ns = 0
        self._command = None
        self._start = {n: item.position.copy() for n, item in self._world.objects.items()}
        return spec

    def step(self, action: np.ndarray) -> None:
        """Let one control period pass under an action (7,)."""
        answered_ns = self._world.time_ns
        apply_action(self._world, self.embodiment, action)
        self.answered_ns = answered_ns

    def steer(self, action: np.ndarray) -> None:
        """Free-running: this action counts from now on, until it is too old."""
        self._command = (self._world.time_ns, action)

    def tick(self) -> None:
        """Free-running: let one control period pass under the command that counts."""
        self.step(self._current_action())

    def _current_action(self) -> np.ndarray:
        action = np.zeros(7)
        action[6] = 1.0
        if self._command is not None:
            since_ns, commanded = self._command
            if self._world.time_ns - since_ns <= self._timeout_ns:
                return commanded
            action[6] = commanded[6]
        return action

    # -- messages -------------------------------------------------------------------------------

    def instruction(self) -> dict[str, bytes]:
        """The episode's instruction."""
        return instruction_message(self._world, self.embodiment)

    def observation(self) -> dict[str, bytes]:
        """What the sensors and the clock say now, and the truth last: it invites the expert."""
        return {
            CLOCK_TOPIC: wire.encode_clock(self._world.time_ns),
            **camera_info_messages(self._world, self.embodiment),
            **observation_messages(self._world, self.embodiment),
            SUCCESS_TOPIC: wire.encode_bool(self._world.status().success),
            STATE_TOPIC: wire.encode_string(encode_truth(self._world, self.episode)),
        }

    def overview(self) -> dict[str, bytes]:
        """A picture of the whole scene, for people."""
        image = self._world.render('overview', *self._overview_size)
        return {OVERVIEW_TOPIC: wire.encode_image(image, self._world.time_ns, 'overview')}

    def key_values(self) -> dict[str, str]:
        """How the episode stands, for a diagnostic message."""
        status, spec = self._world.status(), self._world.spec
        displaced_m = max(
            (
                float(np.linalg.norm(item.position - self._start[name]))
                for name, item in self._world.objects.items()
            ),
            default=0.0,
        )
        return {
            'episode': str(self.episode),
            'seed': str(spec.seed),
            'split': spec.split,
            'task': spec.task,
            'instruction': spec.instruction,
            'target': spec.target,
            'ts_ns': str(self._world.time_ns),
            'answered_ns': str(self.answered_ns),
            'steps': str(status.steps),
            'success': str(status.success).lower(),
            'done': str(status.done).lower(),
            'wrong_object': str(status.wrong_object).lower(),
            'touched': ','.join(status.touched),
            'holding': status.holding or '',
            'displaced_m': f'{displaced_m:.6f}',
        }
