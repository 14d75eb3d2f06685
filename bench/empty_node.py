"""A node that does nothing, spun as ours are: what an idle node costs at least."""

from __future__ import annotations

import sys

from rclpy.node import Node

from vla_alignment_ros.nodes.runtime import run


def main() -> int:
    """Entry point."""
    return run(lambda: Node('empty_node'))


if __name__ == '__main__':
    sys.exit(main())
