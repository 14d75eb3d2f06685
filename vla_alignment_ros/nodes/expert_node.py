"""The scripted teleoperator: solves the simulator's episodes, for demonstrations.

It answers every `simulator_node/state` with the command for that very moment, so in lock-step its
demonstrations are those of the headless recorder. When an episode is solved it falls silent until
the next one; `~/done` (Bool, latched) tells.
"""

from __future__ import annotations

import sys
from typing import Any

from rclpy.node import Node

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import VlaError
from vla_alignment_ros.nodes.parameters import Parameters
from vla_alignment_ros.nodes.qos import latched, RawPublishers, reliable, subscribe_raw
from vla_alignment_ros.nodes.runtime import run
from vla_alignment_ros.nodes.schemas import ExpertParameters
from vla_alignment_ros.nodes.truth import TruthView
from vla_alignment_ros.sim.expert import Expert

STATE_TOPIC = 'simulator_node/state'
DONE_TOPIC = '~/done'


class ExpertNode(Node):
    """Plumbing from the simulator's truth through `Expert` to the command topics."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('expert_node', **kwargs)
        self.settings = Parameters(self, ExpertParameters)
        embodiment = Embodiment.load(self.settings.current.embodiment)
        self._topic = embodiment.instruction_topic
        self._codec = make_codec(embodiment)
        self._commands = RawPublishers(self, self._codec.topics)
        self._latched = RawPublishers(
            self,
            {self._topic: 'std_msgs/msg/String', DONE_TOPIC: 'std_msgs/msg/Bool'},
            lambda topic: latched(),
        )
        self._view = TruthView()
        self._expert = Expert(self._view)
        self._episode = 0
        self._done = False
        subscribe_raw(self, STATE_TOPIC, 'std_msgs/msg/String', self._on_state, reliable())

    def _on_state(self, raw: bytes) -> None:
        try:
            self._view.update(wire.decode_string(raw))
        except VlaError as error:
            self.get_logger().error(str(error))
            return
        if self._view.episode != self._episode:
            self._begin()
        if self._expert.done:
            self._finish()
        else:
            action = self._expert.action()
            self._commands.publish(self._codec.encode(action, self._view.time_ns))

    def _begin(self) -> None:
        self._episode, self._done = self._view.episode, False
        self._expert.reset(self._view.spec)
        self._latched.publish({DONE_TOPIC: wire.encode_bool(False)})
        if self.settings.current.publish_instruction:
            text = self._view.spec.instruction
            self._latched.publish({self._topic: wire.encode_string(text)})

    def _finish(self) -> None:
        if not self._done:
            self._done = True
            self._latched.publish({DONE_TOPIC: wire.encode_bool(True)})


def main(args: list[str] | None = None) -> int:
    """Entry point."""
    return run(ExpertNode, args)


if __name__ == '__main__':
    sys.exit(main())
