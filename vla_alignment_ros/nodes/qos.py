"""Qualities of service, and raw bytes in and out by the message type's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from vla_alignment_ros.embodiment import Embodiment, INTERVENTION_TOPIC
from vla_alignment_ros.wire import STAMPED


def sensor_data(depth: int = 5) -> QoSProfile:
    """Best effort: matches every camera; an old frame is never waited for."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


def reliable(depth: int = 10) -> QoSProfile:
    """Reliable and volatile: commands, scores, status; publishers that nobody should miss."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def latched() -> QoSProfile:
    """Reliable and transient local: whoever comes late still gets the last message."""
    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def matching_publishers(node: Node, topic: str, wanted: QoSProfile) -> QoSProfile:
    """`wanted`, as far as every publisher there is now offers that.

    For recorders, who would rather hear everybody: reliable where all are, because best effort
    may lose; and transient local only where all are, because else some would not be heard.
    """
    offers = [
        o.qos_profile
        for o in node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
    ]
    if not offers:
        return wanted
    dependable = all(o.reliability == ReliabilityPolicy.RELIABLE for o in offers)
    latching = all(o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
    return QoSProfile(
        depth=max(wanted.depth, 10),
        reliability=(
            ReliabilityPolicy.RELIABLE if dependable else ReliabilityPolicy.BEST_EFFORT
        ),
        durability=wanted.durability if latching else DurabilityPolicy.VOLATILE,
    )


def topic_qos(embodiment: Embodiment, topic: str, depth: int = 5) -> QoSProfile:
    """What a subscriber of an embodiment's topic asks for by default."""
    if topic in (embodiment.instruction_topic, INTERVENTION_TOPIC):
        return latched()
    if topic in {**embodiment.observation_topics(), **embodiment.segmentation_topics()}:
        return sensor_data(depth)
    return reliable(depth)


def message_class(msgtype: str) -> type:
    """The rclpy class of 'sensor_msgs/msg/Image'."""
    package, kind, name = msgtype.split('/')
    return getattr(import_module(f'{package}.{kind}'), name)


def subscribe_raw(
    node: Node,
    topic: str,
    msgtype: str,
    callback: Callable[[bytes], None],
    qos: QoSProfile,
    overridable: bool = True,
) -> Subscription:
    """Subscribe to the bytes of a topic.

    overridable: whether `qos_overrides.` parameters may change history, depth and reliability.
    """
    options = QoSOverridingOptions.with_default_policies() if overridable else None
    return node.create_subscription(
        message_class(msgtype),
        topic,
        callback,
        qos,
        raw=True,
        qos_overriding_options=options,
    )


def advertise(node: Node, topic: str, msgtype: str, qos: QoSProfile) -> Publisher:
    """Advertise a topic whose bytes are encoded here; the quality of service can be overridden."""
    return node.create_publisher(
        message_class(msgtype),
        topic,
        qos,
        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
    )


class RawPublishers:
    """Publishers by topic that are given encoded bytes."""

    def __init__(
        self,
        node: Node,
        topics: Mapping[str, str],
        qos: Callable[[str], QoSProfile] = lambda topic: reliable(),
    ) -> None:
        self._node = node
        self._publishers: dict[str, Any] = {
            topic: advertise(node, topic, msgtype, qos(topic)) for topic, msgtype in topics.items()
        }

    def publish(self, messages: Mapping[str, bytes]) -> None:
        """Publish in the given order: a command's unstamped parts come before the stamped one."""
        for topic, raw in messages.items():
            self._publishers[topic].publish(raw)

    def wanted(self, topic: str) -> bool:
        """Whether anybody subscribes to the topic."""
        return self._publishers[topic].get_subscription_count() > 0

    def destroy(self) -> None:
        """Take the publishers off the node."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers = {}


def is_stamped(msgtype: str) -> bool:
    """Whether the type begins with a std_msgs/Header."""
    return msgtype in STAMPED
