"""Says why a person who wants to drive an arm cannot, or had better not."""

from __future__ import annotations

import time

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from vla_alignment_ros.control.measured import MeasuredArm
from vla_alignment_ros.nodes.episode_calls import SayLike
from vla_alignment_ros.nodes.timekeeper import TimeKeeper

LOOK_S = 1.0
STILL_NS = 2_000_000_000  # a clock that says the same for so long stands still


class Lookout:
    """Looks now and then, by the steady clock, while somebody wants to drive.

    Args:
        node: commands on the topic.
        topic: that completes a command.
        followed: whether the node subscribes to that topic itself.
        measured: knows where the arm is.
        say: is told what is wrong, once for each answer.
    """

    def __init__(
        self, node: Node, topic: str, followed: bool, measured: MeasuredArm, say: SayLike
    ) -> None:
        self._node, self._topic, self._followed = node, topic, followed
        self._measured, self._say = measured, say
        self._time = TimeKeeper()
        self._wanted = False
        self._told = ''
        node.create_timer(LOOK_S, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def want(self) -> None:
        """Somebody wants to drive now."""
        self._wanted = True

    def look(self) -> None:
        """Say what is wrong, if anybody has wanted to drive since the last look."""
        steady_ns, now_ns = time.monotonic_ns(), self._node.get_clock().now().nanoseconds
        self._time.note(now_ns, steady_ns)
        if not self._wanted:
            return
        self._wanted = False
        why = '; '.join(self._obstacles(steady_ns, now_ns))
        if why and why != self._told:
            self._say(why, well=False)
        self._told = why

    def _obstacles(self, steady_ns: int, now_ns: int) -> list[str]:
        stopped = self._time.trouble(steady_ns, STILL_NS)
        found = [stopped or self._measured.unknown(steady_ns, now_ns)]
        if self._node.count_subscribers(self._topic) <= int(self._followed):
            found.append(f'nobody listens on {self._topic}')
        if self._followed and self._node.count_publishers(self._topic) > 1:
            found.append(
                f'somebody else commands {self._topic} too: stop them, or take a policy over with '
                'prefix:=teleop'
            )
        return [text for text in found if text]
