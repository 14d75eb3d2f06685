"""What another policy sends, on `~/input/…`, for the modes of the policy node that judge it.

`~/input/action_chunk` takes whole chunks, in the layout of our own `~/action_chunk`;
`~/input/<role>` takes single commands, with the roles of the embodiment's command codec
(`~/input/twist` and `~/input/gripper`, say). Remap them to what the other policy publishes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rclpy.node import Node
from rclpy.subscription import Subscription

from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.control.shadow import OtherPolicy
from vla_alignment_ros.embodiment import JOINT_TRAJECTORY
from vla_alignment_ros.errors import ControlError, WireError
from vla_alignment_ros.nodes.diagnostics import Causes
from vla_alignment_ros.nodes.intake import CommandIntake
from vla_alignment_ros.nodes.qos import reliable, subscribe_raw

CHUNK_INPUT = '~/input/action_chunk'


def command_input(role: str) -> str:
    """The topic that takes one part of a command."""
    return f'~/input/{role}'


class OtherInput:
    """Subscriptions that feed an `OtherPolicy`; what is broken is counted and changes nothing.

    Args:
        node: whose subscriptions they are.
        other: that takes what comes.
        now_ns: the node's clock, for commands without a stamp.
    """

    def __init__(self, node: Node, other: OtherPolicy, now_ns: Callable[[], int]) -> None:
        self.causes = Causes()
        self._node, self._other, self._now_ns = node, other, now_ns
        codec = make_codec(other.embodiment)
        self._intake = CommandIntake(codec, strict=False)
        qos = reliable()
        self._inputs: list[Subscription] = [
            subscribe_raw(node, CHUNK_INPUT, JOINT_TRAJECTORY, self._on_chunk, qos)
        ]
        for role, topic in other.embodiment.command.topics.items():
            take = partial(self._on_part, topic)
            name, msgtype = command_input(role), codec.topics[topic]
            self._inputs.append(subscribe_raw(node, name, msgtype, take, qos))

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        self._inputs = []

    def _on_chunk(self, raw: bytes) -> None:
        try:
            self._other.take_chunk(raw)
        except (ControlError, WireError) as error:
            self._refuse(error)

    def _on_part(self, topic: str, raw: bytes) -> None:
        try:
            command = self._intake.push(topic, raw)
            if command is not None:
                self._other.take_command(command.ts_ns or self._now_ns(), command.action)
        except (ControlError, WireError) as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        if self.causes.add(type(error).__name__) == 1:
            self._node.get_logger().warning(
                f"the other policy's message is refused: {error} (further ones are only counted)"
            )
