"""The raw subscriptions of a recorder: they follow the publishers, and name those that do not fit.

Between episodes a subscription is made anew where its publishers would be heard better with
another quality of service. During one it stays, because a new one would miss messages; a
publisher that does not fit it is named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    qos_check_compatible,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vla_alignment_ros.data.bag import OfferedQos
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes.qos import matching_publishers, subscribe_raw, topic_qos
from vla_alignment_ros.wire import IMAGE_DECODERS

IMAGE_DEPTH = 50  # messages that DDS keeps while callbacks are late: a second or more of images,
DEPTH = 1000  # and of everything else, which comes more often and is small


class RecorderInputs:
    """One subscription for each topic of an embodiment, while it is open. Not thread-safe."""

    def __init__(
        self, node: Node, embodiment: Embodiment, push: Callable[[str, bytes], None]
    ) -> None:
        self._node, self._embodiment, self._push = node, embodiment, push
        self._types = embodiment.recorded_topics()
        self.subscriptions: dict[str, Subscription] = {}

    def open(self) -> None:
        """Subscribe to everything."""
        for topic in self._types:
            self._subscribe(topic)

    def close(self) -> None:
        """Unsubscribe from everything; may be called at any time."""
        for subscription in self.subscriptions.values():
            self._node.destroy_subscription(subscription)
        self.subscriptions = {}

    def follow(self) -> None:
        """Subscribe anew where that hears more of the publishers there are now."""
        for topic, subscription in list(self.subscriptions.items()):
            best, now = self._best(topic), subscription.qos_profile
            if (best.reliability, best.durability) != (now.reliability, now.durability):
                self._node.destroy_subscription(subscription)
                self._subscribe(topic)

    def misfits(self) -> list[str]:
        """Publishers that are not heard: topic, node and why."""
        found = []
        for topic, subscription in list(self.subscriptions.items()):
            for publisher in self._publishers(topic):
                who = f'{topic} of {publisher.node_name}'
                if publisher.topic_type != self._types[topic]:
                    found.append(f'{who} is {publisher.topic_type}, not {self._types[topic]}')
                    continue
                fits, why = qos_check_compatible(
                    publisher.qos_profile, subscription.qos_profile
                )
                if fits == QoSCompatibility.ERROR:
                    found.append(f'{who}: {why.strip("; ")}')
        return found

    def offered(self, topic: str) -> list[OfferedQos]:
        """What the publishers of a topic offer now, each kind once; from any thread."""
        offers = (
            OfferedQos(
                reliable=p.qos_profile.reliability == ReliabilityPolicy.RELIABLE,
                transient_local=p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
                depth=p.qos_profile.depth,
            )
            for p in self._publishers(topic)
        )
        return list(dict.fromkeys(offers))

    def _publishers(self, topic: str) -> list[TopicEndpointInfo]:
        return self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(topic))

    def _best(self, topic: str) -> QoSProfile:
        wanted = topic_qos(self._embodiment, topic)
        wanted.depth = IMAGE_DEPTH if self._types[topic] in IMAGE_DECODERS else DEPTH
        return matching_publishers(self._node, topic, wanted)

    def _subscribe(self, topic: str) -> None:
        self.subscriptions[topic] = subscribe_raw(
            self._node,
            topic,
            self._types[topic],
            partial(self._push, topic),
            self._best(topic),
            overridable=False,  # it follows the publishers instead
        )
