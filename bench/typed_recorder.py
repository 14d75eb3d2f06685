"""A recorder as one writes it in an hour: typed messages, serialised again, and rosbags."""

from __future__ import annotations

from functools import partial
from pathlib import Path
import sys
from typing import Any

from rclpy.node import Node
from rclpy.serialization import serialize_message
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from sensor_msgs.msg import Image

from vla_alignment_ros.data.bag_format import message_definition
from vla_alignment_ros.nodes.qos import reliable
from vla_alignment_ros.nodes.recorder_inputs import IMAGE_DEPTH
from vla_alignment_ros.nodes.runtime import run

IMAGE = 'sensor_msgs/msg/Image'


class TypedRecorder(Node):
    """Records the image topics of the parameter `topics` into the bag `path`, all its life."""

    def __init__(self) -> None:
        super().__init__('typed_recorder')
        self._writer = Writer(
            Path(self.declare_parameter('path', '').value),
            version=9,
            storage_plugin=StoragePlugin.MCAP,
        )
        self._writer.open()
        definition, digest = message_definition(IMAGE)
        for topic in self.declare_parameter('topics', ['']).value:
            connection = self._writer.add_connection(
                f'/{topic}', IMAGE, msgdef=definition.data, rihs01=digest
            )
            self.create_subscription(
                Image, topic, partial(self._take, connection), reliable(IMAGE_DEPTH)
            )

    def close(self) -> None:
        """Finish the bag."""
        self._writer.close()

    def _take(self, connection: Connection, message: Any) -> None:
        stamp = message.header.stamp
        ts_ns = stamp.sec * 10**9 + stamp.nanosec
        self._writer.write(connection, ts_ns, serialize_message(message))


if __name__ == '__main__':
    sys.exit(run(TypedRecorder))
