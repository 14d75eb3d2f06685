"""A person at a gamepad or a keyboard moves the arm, alone or in place of a policy.

Subscribes: `joy` (sensor_msgs/Joy), `joint_states`, and the command topics, to know what the arm
was told last. Publishes: the command topics, under `prefix`, at the control rate while somebody
drives and a moment after; the instruction, where one is typed. Buttons and keys call the episode
services of `recorder`. Everything stays within the embodiment's limits. Where nothing can move it
says why.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from vla_alignment_ros import wire
from vla_alignment_ros.control import keys, pads
from vla_alignment_ros.control.arm import Sent
from vla_alignment_ros.control.buffer import ObservationBuffer
from vla_alignment_ros.control.jogging import Jogger
from vla_alignment_ros.control.measured import MeasuredArm
from vla_alignment_ros.embodiment import Embodiment, JOINT_STATE, STRING
from vla_alignment_ros.errors import ControlError, VlaError, WireError
from vla_alignment_ros.nodes.diagnostics import Causes
from vla_alignment_ros.nodes.episode_calls import CALLS, EpisodeCalls
from vla_alignment_ros.nodes.intake import CommandIntake
from vla_alignment_ros.nodes.intervention_input import prefixed
from vla_alignment_ros.nodes.lookout import Lookout
from vla_alignment_ros.nodes.parameters import Parameters
from vla_alignment_ros.nodes.qos import (
    latched,
    RawPublishers,
    reliable,
    sensor_data,
    subscribe_raw,
)
from vla_alignment_ros.nodes.runtime import run
from vla_alignment_ros.nodes.schemas import TeleopParameters
from vla_alignment_ros.nodes.terminal import Terminal

JOY_TOPIC, JOY = 'joy', 'sensor_msgs/msg/Joy'
STOP_STEPS = 50  # at most so many commands to come to rest


class TeleopNode(Node):
    """Plumbing from pads and keys through a `Jogger` to the command topics."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('teleop_node', **kwargs)
        self.settings = Parameters(self, TeleopParameters)
        chosen = self.settings.current
        embodiment = self.embodiment = Embodiment.load(chosen.embodiment)
        self._lock = threading.RLock()  # keys have a thread of their own
        self._closing = False
        self._causes = Causes()
        self._jogger = Jogger(embodiment, chosen.speed)
        pad = pads.Pad.load(chosen.pad)
        self._pad_help = pad.help  # until it was said
        self._pad = pads.PadReader(pad, chosen.dead_zone, chosen.expo, chosen.joy_timeout_s)
        self._keys = keys.KeyReader(chosen.key_timeout_s)
        self._buffer = ObservationBuffer(embodiment)
        self._measured = MeasuredArm(self._buffer)
        codec = self._jogger.arm.codec
        self._told = CommandIntake(codec, strict=False)
        self._names = {topic: prefixed(chosen.prefix, topic) for topic in codec.topics}
        self._commands = RawPublishers(
            self, {self._names[topic]: kind for topic, kind in codec.topics.items()}
        )
        said = embodiment.instruction_topic
        self._instruction = RawPublishers(self, {said: STRING}, lambda topic: latched())
        self.episodes = EpisodeCalls(self, chosen.recorder, self._say)
        joints = embodiment.joint_states_topic
        subscribe_raw(self, joints, JOINT_STATE, self._on_joints, sensor_data())
        for topic, kind in codec.topics.items():
            subscribe_raw(self, topic, kind, partial(self._on_told, topic), reliable())
        subscribe_raw(self, JOY_TOPIC, JOY, self._on_joy, sensor_data())
        # the robot's time where that is a simulation's; else one that nobody can set
        simulated = self.get_parameter('use_sim_time').value
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._period_s = 1.0 / embodiment.rate_hz
        self.create_timer(self._period_s, self._tick, clock=None if simulated else steady)
        trigger = self._names[codec.trigger]
        self._lookout = Lookout(
            self, trigger, trigger in codec.topics, self._measured, self._say
        )
        self._terminal: Terminal | None = None
        if chosen.keyboard:  # last, so that nothing above leaves a terminal behind
            self._print(keys.help_text(embodiment))
            self._terminal = Terminal(self._on_key, self._quit)
        else:
            self._help_with_pad()

    def close(self) -> None:
        """Give the terminal back, and bring the arm to rest within its limits."""
        if self._terminal is not None:
            self._terminal.close()
            self._print('\n')
        with self._lock:
            self._closing = True
        pause, begun_ns = threading.Event(), self._now_ns()  # never set: a paced wait
        for step in range(STOP_STEPS):
            ts_ns = begun_ns + round(step * self._period_s * 1e9)
            with self._lock:
                sent = self._jogger.command(ts_ns, None)
            if sent is None:
                return
            self._send(sent)
            pause.wait(self._period_s)

    # -- what comes in --------------------------------------------------------------------------

    def _on_joints(self, raw: bytes) -> None:
        topic = self.embodiment.joint_states_topic
        self._buffer.push(topic, raw, time.monotonic_ns(), self._now_ns())

    def _on_told(self, topic: str, raw: bytes) -> None:
        try:
            command = self._told.push(topic, raw)
            if command is not None:
                with self._lock:
                    self._jogger.follow(command.action)
        except (ControlError, WireError) as error:
            self._refuse('command', error)

    def _on_joy(self, raw: bytes) -> None:
        try:
            sample = wire.decode_joy(raw)
            now_s = time.monotonic()
            with self._lock:
                pressed = self._pad.take(
                    sample.axes, sample.buttons, now_s, sample.ts_ns * 1e-9
                )
                self._look_out(now_s)
        except (ControlError, WireError) as error:
            self._refuse('joy', error)
            return
        self._help_with_pad()
        for name in pressed:
            self._do(name)

    def _on_key(self, key: str) -> None:
        now_s = time.monotonic()
        with self._lock:
            does = self._keys.take(key, now_s)
            typed = self._keys.typed
            self._look_out(now_s)
        if does is not None:
            self._do(*does)
        if typed is not None:
            self._print(f'\rinstruction: {typed}\x1b[K')
        elif does is None or does[0] != keys.QUIT:
            self._show()

    def _do(self, name: str, text: str = '') -> None:
        with self._lock:
            if name == pads.GRIPPER:
                self._jogger.toggle_gripper()
            elif name in (pads.FASTER, pads.SLOWER):
                self._jogger.change_speed(name == pads.FASTER)
        if name in CALLS:
            self.episodes.call(name)
        elif name == keys.SAY:
            said = wire.encode_string(text)
            self._instruction.publish({self.embodiment.instruction_topic: said})
            self._say(f'said: {text}')
        elif name == keys.HELP:
            self._print(f'\r\x1b[K{keys.help_text(self.embodiment)}')
        elif name == keys.QUIT:
            self._quit()

    def _quit(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # the main thread waits for that

    # -- what goes out --------------------------------------------------------------------------

    def _tick(self) -> None:
        now_s, ts_ns = time.monotonic(), self._now_ns()
        with self._lock:
            if self._closing:
                return
            wanted = self._deflection(now_s)
            sent = None
            if wanted is not None or self._jogger.driving:
                sent = self._jogger.command(ts_ns, wanted, self._measured_for(ts_ns))
        if sent is not None:
            self._send(sent)

    def _deflection(self, now_s: float) -> np.ndarray | None:
        wanted = self._pad.deflection(now_s)
        return self._keys.deflection(now_s) if wanted is None else wanted

    def _look_out(self, now_s: float) -> None:
        if self._deflection(now_s) is not None:
            self._lookout.want()

    def _measured_for(self, ts_ns: int) -> tuple[int, np.ndarray] | None:
        return self._measured.state(time.monotonic_ns(), ts_ns)

    def _send(self, sent: Sent) -> None:
        if sent.refused is not None:
            self._refuse('motion', ControlError(sent.refused))
        self._commands.publish({self._names[t]: raw for t, raw in sent.messages.items()})

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _refuse(self, what: str, error: VlaError) -> None:
        if self._causes.add(what) == 1:
            self._say(f'{what} refused: {error} (further ones are not told)', well=False)

    def _say(self, text: str, well: bool = True) -> None:
        if self._terminal is not None:
            self._print('\r\x1b[K')  # the line of `_show`, which comes again with the next key
        if well:  # a line each: rclpy refuses another severity from the same one
            self.get_logger().info(text)
        else:
            self.get_logger().error(text)

    def _help_with_pad(self) -> None:
        """Say once what its axes and buttons do."""
        help_text, self._pad_help = self._pad_help, ''
        if help_text:
            self._say(f'the gamepad:\n{help_text}')

    def _show(self) -> None:
        opening = self._jogger.opening
        gripper = '?' if opening is None else f'{opening:.0%} open'
        self._print(f'\rspeed {self._jogger.speed:.0%}, gripper {gripper}\x1b[K')

    def _print(self, text: str) -> None:
        with suppress(OSError):  # who read it may be gone; the arm still has to stop
            print(text, end='', flush=True)


def main(args: list[str] | None = None) -> int:
    """Entry point."""
    return run(TeleopNode, args, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


if __name__ == '__main__':
    sys.exit(main())
