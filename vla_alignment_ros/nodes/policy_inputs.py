"""Everything that a policy node listens to while it is configured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rclpy.node import Node
from rclpy.subscription import Subscription

from vla_alignment_ros.nodes.intervention_input import InterventionInput
from vla_alignment_ros.nodes.other_input import OtherInput
from vla_alignment_ros.nodes.qos import subscribe_raw, topic_qos
from vla_alignment_ros.nodes.schemas import PolicyParameters, SHADOW
from vla_alignment_ros.nodes.serving import Serving

NEWEST_ONLY = 1


class PolicyInputs:
    """The sensors, the instruction, another policy that is judged, a person who takes over.

    Args:
        node: whose subscriptions they are.
        chosen: its parameters.
        serving: takes what comes.
        now_ns: the node's clock.
    """

    def __init__(
        self,
        node: Node,
        chosen: PolicyParameters,
        serving: Serving,
        now_ns: Callable[[], int],
    ) -> None:
        self._node, self._serving, self._now_ns = node, serving, now_ns
        embodiment = serving.embodiment
        # the instruction first: where several wait, executors take them in this order
        topics = sorted(
            embodiment.observation_topics().items(),
            key=lambda item: item[0] != embodiment.instruction_topic,
        )
        self._inputs: list[Subscription] = [
            subscribe_raw(
                node,
                topic,
                msgtype,
                partial(self._on_message, topic),
                topic_qos(embodiment, topic, NEWEST_ONLY),
            )
            for topic, msgtype in topics
        ]
        self.other: OtherInput | None = None
        if serving.other is not None:
            self.other = OtherInput(node, serving.other, now_ns)
        self.intervention: InterventionInput | None = None
        if chosen.intervention_prefix and chosen.mode != SHADOW:  # a shadow has no arm
            self.intervention = InterventionInput(
                node, chosen.intervention_prefix, serving.loop.interventions
            )

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        self._inputs = []
        for part in (self.other, self.intervention):
            if part is not None:
                part.destroy()

    def key_values(self) -> dict[str, str]:
        """What was refused and why, for a diagnostic message."""
        parts = {'input refused: ': self.other, 'intervention refused: ': self.intervention}
        return {
            cause: str(count)
            for prefix, part in parts.items()
            if part is not None
            for cause, count in part.causes.snapshot(prefix).items()
        }

    def _on_message(self, topic: str, raw: bytes) -> None:
        self._serving.push(topic, raw, self._now_ns())
