"""What a person sends to take the arm over: its command topics, under a prefix.

`teleop/servo/delta_twist_cmds` and `teleop/gripper/command` for a robot that is commanded on
`servo/delta_twist_cmds` and `gripper/command`; decoded by the same codec. The topic that completes
a command takes over; until the person moves the gripper, it stays as it is.
"""

from __future__ import annotations

from functools import partial
import time

from rclpy.node import Node
from rclpy.subscription import Subscription

from vla_alignment_ros import wire
from vla_alignment_ros.errors import ControlError, WireError
from vla_alignment_ros.nodes.diagnostics import Causes
from vla_alignment_ros.nodes.intake import CommandIntake
from vla_alignment_ros.nodes.interventions import Interventions
from vla_alignment_ros.nodes.qos import reliable, subscribe_raw


def prefixed(prefix: str, topic: str) -> str:
    """A command topic as it is called under the prefix; an empty one changes nothing."""
    return f'{prefix.rstrip("/")}/{topic.removeprefix("~").lstrip("/")}' if prefix else topic


class InterventionInput:
    """Subscriptions that feed `Interventions`; what is broken is counted and changes nothing.

    Args:
        node: whose subscriptions they are.
        prefix: of their topics.
        interventions: take what comes.
    """

    def __init__(self, node: Node, prefix: str, interventions: Interventions) -> None:
        self.causes = Causes()
        self._node, self._interventions = node, interventions
        self._codec = interventions.codec
        self._intake = CommandIntake(self._codec, strict=False)
        self._gripper_s = float('-inf')  # steady: when the person last moved the gripper
        self._inputs: list[Subscription] = [
            subscribe_raw(
                node, prefixed(prefix, topic), msgtype, partial(self._on_part, topic), reliable()
            )
            for topic, msgtype in self._codec.topics.items()
        ]

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        self._inputs = []

    def _on_part(self, topic: str, raw: bytes) -> None:
        try:
            if topic == self._codec.gripper_topic:
                self._gripper_s = time.monotonic()
            elif not self._interventions.drives():
                self._keep_gripper()
            command = self._intake.push(topic, raw)
            if command is not None:
                self._interventions.take(command.action)
        except (ControlError, WireError) as error:
            if self.causes.add(type(error).__name__) == 1:
                self._node.get_logger().warning(
                    f"a person's command is refused: {error} (further ones are only counted)"
                )

    def _keep_gripper(self) -> None:
        """What a person once said of the gripper does not count when they come back."""
        said_s = time.monotonic() - self._gripper_s
        if self._codec.gripper_topic is None or said_s <= self._interventions.person.timeout_s:
            return
        opening = self._interventions.opening()
        if opening is not None:
            self._intake.push(self._codec.gripper_topic, wire.encode_float64(opening))
