"""Messages of nodes that run as processes, as a test's client hears them."""

from __future__ import annotations

from lifecycle_msgs.msg import State
import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.nodes.client import Client
from vla_alignment_ros.nodes.qos import reliable, subscribe_raw


def listen(client: Client, topic: str, msgtype: str) -> list[bytes]:
    """What comes in on a topic, in order."""
    messages: list[bytes] = []
    subscribe_raw(
        client.node, topic, msgtype, lambda raw: messages.append(bytes(raw)), reliable(1000)
    )
    return messages


def moves(raw: bytes) -> bool:
    """Whether a twist commands motion."""
    sample = wire.decode_twist_stamped(raw)
    return bool(np.any(sample.linear) or np.any(sample.angular))


def until_active(client: Client, *nodes: str) -> None:
    """Wait until lifecycle nodes have brought themselves up."""
    for node in nodes:
        client.until(
            lambda node=node: client.lifecycle_state(node) == State.PRIMARY_STATE_ACTIVE,
            f'{node} to be active',
        )
