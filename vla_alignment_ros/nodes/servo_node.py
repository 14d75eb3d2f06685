"""Cartesian servo: twists of the hand in, joint commands out, within limits (lifecycle).

For arms without MoveIt Servo, and for the simulated one behind joint controllers. Subscribes: the
twist, gripper and joint-state topics of an ee_delta embodiment with a URDF. Publishes: the topic
of the chosen joint interface and the gripper's (see `control.joint_commands`), `~/status`
(DiagnosticStatus: go, slow or hold, and why) and `/diagnostics`.

While it is active it commands every period, a hold too; while it is not, nothing. It times by the
steady clock, and by a simulation's where `use_sim_time` is set: a simulated second is a second.
"""

from __future__ import annotations

from functools import partial
import sys
import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from vla_alignment_ros.control.servo import Servo
from vla_alignment_ros.embodiment import Embodiment, FLOAT64, resolve_resource, TWIST_STAMPED
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.kinematics import ForwardKinematics
from vla_alignment_ros.nodes.diagnostics import (
    diagnostic_array,
    DIAGNOSTICS_TOPIC,
    ERROR,
    OK,
    status_message,
)
from vla_alignment_ros.nodes.lifecycle import ManagedNode
from vla_alignment_ros.nodes.parameters import Parameters
from vla_alignment_ros.nodes.qos import (
    advertise,
    latched,
    RawPublishers,
    reliable,
    subscribe_raw,
    topic_qos,
)
from vla_alignment_ros.nodes.runtime import run
from vla_alignment_ros.nodes.servo_loop import ServoLoop
from vla_alignment_ros.nodes.servo_parameters import NONE, ServoParameters
from vla_alignment_ros.nodes.ticker import Ticker
from vla_alignment_ros.nodes.timekeeper import TimeKeeper

NEWEST_ONLY = 1
STILL_NS = 1_000_000_000  # simulated time that stands still for so long is told


class ServoNode(ManagedNode):
    """Plumbing around a ServoLoop."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('servo_node', **kwargs)
        self.settings = Parameters(self, ServoParameters)
        self._simulated = bool(self.get_parameter('use_sim_time').value)
        self._loop: ServoLoop | None = None
        self._commands: RawPublishers | None = None
        self._inputs: list[Subscription] = []
        self._ticker: Ticker | None = None
        self._sim_timer: Timer | None = None
        self._clock_watch = TimeKeeper()
        self._status = advertise(
            self, '~/status', 'diagnostic_msgs/msg/DiagnosticStatus', latched()
        )
        self._diagnostics = advertise(
            self, DIAGNOSTICS_TOPIC, 'diagnostic_msgs/msg/DiagnosticArray', reliable()
        )
        # never the node's clock: what watches over silence must not stop with a simulation
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(
            self.settings.current.status_period_s, self._on_status_timer, clock=steady
        )

    def begin(self) -> None:
        """Come up by itself, where that is wanted."""
        if self.settings.current.autostart:
            self.bring_up()

    # -- lifecycle ------------------------------------------------------------------------------

    def configure(self) -> None:
        """Read the robot's description and listen; nothing is commanded yet."""
        chosen = self.settings.current
        embodiment = Embodiment.load(chosen.embodiment)
        servo = Servo(_kinematics(embodiment, chosen.urdf), chosen.config())
        if chosen.command_timeout_s * embodiment.rate_hz < 2.0:
            self.get_logger().warning(
                f'{embodiment.name} is commanded at {embodiment.rate_hz:g} Hz: command_timeout_s '
                f'{chosen.command_timeout_s:g} brakes it whenever a twist is late; set '
                f'{2.0 / embodiment.rate_hz:g} unless something faster drives it'
            )
        topics = ServoLoop.topics(chosen.output, chosen.gripper)
        # bound here: a period may still be under way when the node forgets all of this
        commands = self._commands = RawPublishers(self, topics)
        self._loop = ServoLoop(
            embodiment,
            servo,
            chosen.output,
            chosen.gripper,
            send=commands.publish,
            log=self.get_logger().error,
        )
        states = embodiment.joint_states_topic
        heard = {
            states: ('sensor_msgs/msg/JointState', topic_qos(embodiment, states, NEWEST_ONLY)),
            embodiment.command.topics['twist']: (TWIST_STAMPED, reliable(NEWEST_ONLY)),
        }
        if chosen.gripper != NONE:
            heard[embodiment.command.topics['gripper']] = FLOAT64, reliable(NEWEST_ONLY)
        for topic, (msgtype, qos) in heard.items():
            self._inputs.append(
                subscribe_raw(self, topic, msgtype, partial(self._on_message, topic), qos)
            )
        self.get_logger().info(f'servoing {embodiment.name} by {chosen.output}')

    def activate(self) -> None:
        """Begin to command."""
        self._loop.start(self._now_ns())
        period_s = 1.0 / self.settings.current.rate_hz
        if self._simulated:
            self._sim_timer = self.create_timer(period_s, self._tick)
        else:
            self._ticker = Ticker(period_s, self._tick)

    def deactivate(self) -> None:
        """Bring the arm to rest; the last thing said is a hold."""
        self._stop_ticking()
        self._loop.stop(self._now_ns())
        self._publish_status()

    def release(self) -> None:
        """Stop listening and forget the robot."""
        self._stop_ticking()
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        self._loop = None
        if self._commands is not None:
            self._commands.destroy()
            self._commands = None

    def _stop_ticking(self) -> None:
        if self._ticker is not None:
            self._ticker.close()
            self._ticker = None
        if self._sim_timer is not None:
            self.destroy_timer(self._sim_timer)
            self._sim_timer = None

    # -- messages in and periods ----------------------------------------------------------------

    def _on_message(self, topic: str, raw: bytes) -> None:
        loop = self._loop
        if loop is not None:
            loop.push(topic, raw, self._now_ns())

    def _tick(self) -> None:
        loop = self._loop
        if loop is not None and loop.tick(self._now_ns()):
            self._publish_status()

    def _now_ns(self) -> int:
        if not self._simulated:
            return time.monotonic_ns()
        now_ns = self.get_clock().now().nanoseconds
        self._clock_watch.note(now_ns, time.monotonic_ns())
        return now_ns

    # -- messages out ---------------------------------------------------------------------------

    def _on_status_timer(self) -> None:
        self._diagnostics.publish(diagnostic_array(self, self._publish_status()))

    def _publish_status(self) -> Any:
        loop, name = self._loop, self.get_fully_qualified_name()
        if loop is None:
            level = ERROR if self.last_error else OK
            status = status_message(name, level, self.last_error or 'not configured', {})
        else:
            level, text = self._judge(loop) if self.is_active else (OK, 'inactive')
            values = loop.key_values() | {'missed': self._missed()}
            status = status_message(name, level, text, values, loop.embodiment.name)
        self._status.publish(status)
        return status

    def _judge(self, loop: ServoLoop) -> tuple[bytes, str]:
        now_ns = self._now_ns()
        if self._simulated:
            trouble = self._clock_watch.trouble(time.monotonic_ns(), STILL_NS)
            if trouble:
                return ERROR, f'hold: {trouble}'
        return loop.judge(now_ns)

    def _missed(self) -> int:
        ticker = self._ticker
        return 0 if ticker is None else ticker.missed


def _kinematics(embodiment: Embodiment, urdf: str) -> ForwardKinematics:
    if embodiment.action.space != 'ee_delta':
        raise ConfigError(
            f"embodiment '{embodiment.name}' commands {embodiment.action.space}: to servo takes "
            'one that commands ee_delta'
        )
    description = urdf or embodiment.urdf
    if description is None or embodiment.ee_link is None:
        raise ConfigError(
            f"embodiment '{embodiment.name}' names no robot description: give it urdf and "
            'ee_link, or set the parameter urdf'
        )
    return ForwardKinematics(
        resolve_resource(description),
        embodiment.joint_names,
        embodiment.base_link,
        embodiment.ee_link,
    )


def main(args: list[str] | None = None) -> int:
    """Entry point."""
    return run(ServoNode, args)


if __name__ == '__main__':
    sys.exit(main())
