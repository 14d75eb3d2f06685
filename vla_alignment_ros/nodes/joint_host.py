"""The simulated world behind the joint controllers of a real robot, instead of a Cartesian one.

No ROS in here. Controllers and joint states run faster than cameras and judge do: time passes in
parts of a control period.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes.world_host import CLOCK_TOPIC, WorldHost
from vla_alignment_ros.sim.controllers import JointControllers
from vla_alignment_ros.sim.scene import TIMESTEP_S
from vla_alignment_ros.sim.spec import EpisodeSpec
from vla_alignment_ros.sim.stream import joint_state_message


class JointHost(WorldHost):
    """A WorldHost that is moved by joint commands. All calls from one thread.

    Args:
        interface: one of `control.joint_commands.INTERFACES`.
        joint_rate_hz: of the controllers and of joint states; a multiple of the control rate
            whose period is a whole number of the physics' steps.
    """

    def __init__(
        self, embodiment: Embodiment, interface: str, joint_rate_hz: float, **settings: Any
    ) -> None:
        super().__init__(embodiment, **settings)
        self._part_s = 1.0 / joint_rate_hz
        for what, many in (
            ('control period', joint_rate_hz / embodiment.rate_hz),
            ('step of the physics', self._part_s / TIMESTEP_S),
        ):
            if many < 1.0 - 1e-9 or abs(many - round(many)) > 1e-9:
                raise ConfigError(
                    f'joint_rate_hz {joint_rate_hz} does not fit the {what}: it is a multiple of '
                    f'{embodiment.rate_hz} Hz of which {1.0 / TIMESTEP_S:.0f} Hz is a multiple'
                )
        self._controllers = JointControllers(embodiment, interface)

    @property
    def rate_hz(self) -> float:
        """How often `tick` wants to be called, per simulated second."""
        return 1.0 / self._part_s

    @property
    def command_topics(self) -> dict[str, str]:
        """Topic -> type of what moves the arm."""
        return self._controllers.topics

    def reset(self, seed: int, split: str) -> EpisodeSpec:
        """Begin an episode; the controllers hold the arm where it is put."""
        spec = super().reset(seed, split)
        self._controllers.reset(self._measured())
        return spec

    def take(self, topic: str, raw: bytes) -> None:
        """Take a joint command.

        Raises:
            WireError, ControlError: it is none; the controllers go on as they were.
        """
        if self.episode:
            self._controllers.take(topic, raw, self._world.time_ns * 1e-9)

    def tick(self) -> None:
        """Let a period of the controllers pass."""
        begun_ns = self._world.time_ns
        joints, opening = self._controllers.advance(begun_ns * 1e-9, self._part_s)
        self._controllers.stopped_at(self._world.reachable(joints))
        self._world.step_joints(joints, opening, self._part_s)
        if self.whole:
            self.answered_ns = begun_ns

    def observation(self) -> dict[str, bytes]:
        """What the sensors say now: cameras and truth only once a control period."""
        if self.whole:
            return super().observation()
        return {
            CLOCK_TOPIC: wire.encode_clock(self._world.time_ns),
            **joint_state_message(self._world, self.embodiment),
        }

    def _measured(self) -> np.ndarray:
        """Positions (8,) of the arm's joints and one finger."""
        return self._world.joint_sample()[1][: len(self.embodiment.joint_names) + 1]
