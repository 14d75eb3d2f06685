"""A recorder as one writes it in an hour: typed messages, serialised again, and rosbags.

It is given the executor of our nodes, but none of their settings.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
import signal
import sys
import threading
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer

from vla_alignment_ros.data.bag_format import message_definition
from vla_alignment_ros.nodes.qos import message_class, reliable
from vla_alignment_ros.nodes.recorder_inputs import IMAGE_DEPTH
from vla_alignment_ros.nodes.runtime import Spinner


class TypedRecorder(Node):
    """Records the parameters `topics`, of types `types`, into the bag `path`, all its life."""

    def __init__(self) -> None:
        super().__init__('typed_recorder')
        self._writer = Writer(
            Path(self.declare_parameter('path', '').value),
            version=9,
            storage_plugin=StoragePlugin.MCAP,
        )
        self._writer.open()
        topics = self.declare_parameter('topics', ['']).value
        types = self.declare_parameter('types', ['']).value
        for topic, msgtype in zip(topics, types):
            definition, digest = message_definition(msgtype)
            connection = self._writer.add_connection(
                f'/{topic}', msgtype, msgdef=definition.data, rihs01=digest
            )
            self.create_subscription(
                message_class(msgtype),
                topic,
                partial(self._take, connection),
                reliable(IMAGE_DEPTH),
            )

    def close(self) -> None:
        """Finish the bag."""
        self._writer.close()

    def _take(self, connection: Connection, message: Any) -> None:
        stamp = message.header.stamp
        ts_ns = stamp.sec * 10**9 + stamp.nanosec
        self._writer.write(connection, ts_ns, serialize_message(message))


def main() -> int:
    """Record until a signal."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with rclpy.init(signal_handler_options=SignalHandlerOptions.NO):
        node = TypedRecorder()
        with Spinner(node, on_error=stop.set) as spinner:
            stop.wait()
        node.close()
        node.destroy_node()
    return 1 if spinner.error else 0


if __name__ == '__main__':
    sys.exit(main())
