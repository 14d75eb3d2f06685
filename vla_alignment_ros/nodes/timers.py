"""Timers that are there only while somebody needs them: an idle node is not to be woken."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.timer import Timer


class Timers:
    """The timers of a node in its present state; `set` puts others in their place.

    Args:
        node: whose timers they are.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._timers: list[Timer] = []

    def set(self, *wanted: tuple[float, Callable[[], None], Clock | None]) -> None:
        """Have exactly these: period in s, callback, clock (None: the node's).

        Call it from one thread at a time.
        """
        before, self._timers = self._timers, []
        for timer in before:
            self._node.destroy_timer(timer)
        for period_s, callback, clock in wanted:
            self._timers.append(self._node.create_timer(period_s, callback, clock=clock))
