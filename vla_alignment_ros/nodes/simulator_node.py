"""The simulated table top behind the topics of a real robot.

Free-running it steps at the control rate. In lock-step it publishes one observation and waits for
the command that carries its stamp, steps once, publishes the next: nothing depends on timing, so
the same seed and policy always give the same episode. With `command_interface` it takes joint
commands instead of twists, as ros2_control's controllers do: see `control.joint_commands`.

Subscribes: the embodiment's command topics, or the joint controllers'. Publishes: its cameras with
camera_info, joint states, `/clock`, the instruction (`publish_instruction`), `~/success`,
`~/status`, `~/state` (the truth, JSON), `~/overview/image_raw` (while subscribed). Service:
`~/reset` (Trigger) begins the episode that `split` and `seed` name; the answer's message is its
description in JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
import json
import sys
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import Trigger

from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError, ControlError, VlaError, WireError
from vla_alignment_ros.nodes.diagnostics import Causes, ERROR, OK, status_message
from vla_alignment_ros.nodes.intake import CommandIntake, ReceivedCommand
from vla_alignment_ros.nodes.joint_host import JointHost
from vla_alignment_ros.nodes.parameters import Parameters
from vla_alignment_ros.nodes.qos import advertise, latched, RawPublishers, reliable, subscribe_raw
from vla_alignment_ros.nodes.runtime import off_executor, run, Worker
from vla_alignment_ros.nodes.schemas import SimulatorParameters, TWIST
from vla_alignment_ros.nodes.world_host import OVERVIEW_TOPIC, WorldHost


class SimulatorNode(Node):
    """Plumbing around a WorldHost, which lives in a thread of its own with its GL context."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('simulator_node', **kwargs)
        self.settings = Parameters(self, SimulatorParameters)
        chosen = self.settings.current
        self.embodiment = Embodiment.load(chosen.embodiment)
        joints = chosen.command_interface != TWIST
        if joints and chosen.lockstep:
            raise ConfigError(
                'lockstep goes with command_interface twist: a joint command names no observation '
                'that it answers'
            )
        codec = make_codec(self.embodiment)
        self._causes = Causes()
        self._world_thread = Worker('world')
        self._host: WorldHost = self._world_thread.submit(self._make_host).result()
        # in lock-step a command is for this moment or for none
        self._intake = CommandIntake(
            codec,
            strict=chosen.lockstep,
            wanted=lambda ts_ns: not chosen.lockstep or ts_ns == self._host.time_ns,
        )
        self._shown: dict[str, bytes] = {}  # the last observation as it was published
        self._pending: Future | None = None

        self._outputs = RawPublishers(self, WorldHost.topics(self.embodiment))
        topic = self.embodiment.instruction_topic
        self._instruction = RawPublishers(
            self, {topic: 'std_msgs/msg/String'}, lambda topic: latched()
        )
        self._status = advertise(
            self, '~/status', 'diagnostic_msgs/msg/DiagnosticStatus', reliable(100)
        )
        heard, take = codec.topics, self._on_command
        if joints:
            heard, take = self._host.command_topics, self._on_joint_command
        for topic, msgtype in heard.items():
            subscribe_raw(self, topic, msgtype, partial(take, topic), reliable())
        self.create_service(Trigger, '~/reset', self._on_reset)
        # never the node's clock: with use_sim_time it would wait for itself
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        if chosen.lockstep:
            self._timer = self.create_timer(chosen.lockstep_retry_s, self._retry, clock=steady)
        else:
            period_s = 1.0 / (self._host.rate_hz * chosen.real_time_factor)
            self._timer = self.create_timer(period_s, self._tick, clock=steady)

    def begin(self) -> None:
        """Start the first episode, where that is wanted."""
        if self.settings.current.reset_on_start:
            self._in_world(self._reset)

    def close(self) -> None:
        """Free the renderer and the thread."""
        self._world_thread.submit(self._host.close)
        self._world_thread.close()

    # -- in the executor's thread ---------------------------------------------------------------

    def _on_command(self, topic: str, raw: bytes) -> None:
        try:
            command = self._intake.push(topic, raw)
        except (WireError, ControlError) as error:
            self._refuse('broken command', str(error))
            return
        if command is not None:
            self._in_world(self._take, command)

    def _on_joint_command(self, topic: str, raw: bytes) -> None:
        self._in_world(self._host.take, topic, raw)

    async def _on_reset(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            response.message = await off_executor(self, self._world_thread, self._reset)
            response.success = True
        except VlaError as error:
            response.message = str(error)
        return response

    def _tick(self) -> None:
        if self._pending is not None and not self._pending.done():
            self._causes.add('overrun')
            return
        self._pending = self._in_world(self._free_step)

    def _retry(self) -> None:
        # one at a time: where the world is slower than this timer, repeats would pile up before
        # the command that ends them
        if self._pending is None or self._pending.done():
            self._pending = self._in_world(self._repeat, self._shown)

    # -- in the world's thread ------------------------------------------------------------------

    def _make_host(self) -> WorldHost:
        chosen = self.settings.current
        settings = {
            'disturbances': chosen.disturbances,
            'command_timeout_s': chosen.command_timeout_s,
            'overview_size': (chosen.overview_width, chosen.overview_height),
        }
        if chosen.command_interface == TWIST:
            return WorldHost(self.embodiment, **settings)
        return JointHost(
            self.embodiment, chosen.command_interface, chosen.joint_rate_hz, **settings
        )

    def _in_world(self, job: Callable[..., Any], *args: Any) -> Future:
        return self._world_thread.submit(self._guarded, job, *args)

    def _guarded(self, job: Callable[..., Any], *args: Any) -> None:
        try:
            job(*args)
        except VlaError as error:
            self._refuse(type(error).__name__, str(error))
        except Exception as error:  # noqa: BLE001 - a thread pool would swallow it
            self.get_logger().error(traceback.format_exc())
            self._report(ERROR, f'{type(error).__name__}: {error}')

    def _reset(self) -> str:
        chosen = self.settings.current
        spec = self._host.reset(chosen.seed, chosen.split)
        if chosen.publish_instruction:
            self._instruction.publish(self._host.instruction())
        self.get_logger().info(f'{spec.split} {spec.seed}: {spec.instruction}')
        self._publish()
        return json.dumps(spec.to_dict())

    def _take(self, command: ReceivedCommand) -> None:
        if not self.settings.current.lockstep:
            self._host.steer(command.action)
        elif self._host.episode and command.ts_ns == self._host.time_ns:
            self._host.step(command.action)
            self._publish()

    def _free_step(self) -> None:
        if self._host.episode:
            self._host.tick()
            self._publish()

    def _publish(self) -> None:
        self._shown = self._host.observation()
        if self._host.whole and self._outputs.wanted(OVERVIEW_TOPIC):
            self._shown = {**self._host.overview(), **self._shown}
        self._publish_again()

    def _repeat(self, shown: dict[str, bytes]) -> None:
        if shown and shown is self._shown:  # still unanswered
            self._publish_again()

    def _publish_again(self) -> None:
        if self.settings.current.lockstep:  # the retry counts from the last observation
            self._timer.reset()
        if self._host.whole:
            self._report(OK, 'running')
        self._outputs.publish(self._shown)

    # -- from any thread ------------------------------------------------------------------------

    def _refuse(self, cause: str, reason: str) -> None:
        if self._causes.add(cause) == 1:
            self.get_logger().warning(f'{cause}: {reason} (further ones are only counted)')

    def _report(self, level: bytes, text: str) -> None:
        values = self._host.key_values() if self._host.episode else {}
        counts = self._causes.snapshot('refused: ')
        counts['refused: command for another moment'] = self._intake.unwanted
        message: DiagnosticStatus = status_message(
            self.get_fully_qualified_name(), level, text, values | counts
        )
        self._status.publish(message)


def main(args: list[str] | None = None) -> int:
    """Entry point."""
    return run(SimulatorNode, args)


if __name__ == '__main__':
    sys.exit(main())
