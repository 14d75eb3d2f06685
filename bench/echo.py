"""The least that can answer an image: a node that sends a ready command back with its stamp.

Executor, qualities of service and bytes are those of the policy node; so this is what an image
and a command cost between two processes, and nothing else.
"""

from __future__ import annotations

import sys

from rclpy.node import Node

from vla_alignment_ros.nodes.qos import advertise, reliable, sensor_data, subscribe_raw
from vla_alignment_ros.nodes.runtime import run

IMAGE_TOPIC, COMMAND_TOPIC = 'echo/image', 'echo/command'
STAMP = slice(4, 12)  # of a message that begins with a header, behind four bytes of CDR


class Echo(Node):
    """Image in, command out."""

    def __init__(self) -> None:
        super().__init__('echo')
        image_type, command_type, command = (
            self.declare_parameter(name, '').value
            for name in ('image_type', 'command_type', 'command')
        )
        ready = bytes.fromhex(command)
        head, tail = ready[: STAMP.start], ready[STAMP.stop :]
        publisher = advertise(self, COMMAND_TOPIC, command_type, reliable())

        def answer(raw: bytes) -> None:
            publisher.publish(head + bytes(raw[STAMP]) + tail)

        subscribe_raw(self, IMAGE_TOPIC, image_type, answer, sensor_data(1))


if __name__ == '__main__':
    sys.exit(run(Echo))
