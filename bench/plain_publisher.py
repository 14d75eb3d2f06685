"""A node that publishes a command at a rate and nothing else: what a hold costs at least."""

from __future__ import annotations

import sys

from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from std_msgs.msg import Float64

from vla_alignment_ros.nodes.runtime import run


class PlainPublisher(Node):
    """Publishes `~/twist` and `~/gripper` every 1 / rate_hz seconds."""

    def __init__(self) -> None:
        super().__init__('plain_publisher')
        self._twists = self.create_publisher(TwistStamped, '~/twist', 10)
        self._grippers = self.create_publisher(Float64, '~/gripper', 10)
        self.create_timer(1.0 / self.declare_parameter('rate_hz', 10.0).value, self._publish)

    def _publish(self) -> None:
        twist = TwistStamped()
        twist.header.stamp = self.get_clock().now().to_msg()
        self._grippers.publish(Float64(data=1.0))
        self._twists.publish(twist)


def main() -> int:
    """Entry point."""
    return run(PlainPublisher)


if __name__ == '__main__':
    sys.exit(main())
