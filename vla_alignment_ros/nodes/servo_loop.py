"""From twists to joint commands: newest bytes in, one period after the other, commands out.

No ROS in here. Callbacks only keep bytes; they are decoded when a period begins, so joint states
at a kilohertz cost no more than the periods do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import threading
import traceback

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.gripper_motion import GripperMotion
from vla_alignment_ros.control.joint_commands import (
    COMMAND_TOPICS,
    encode_joints,
    GRIPPER_TOPIC,
    VELOCITY,
)
from vla_alignment_ros.control.servo import GO, HOLD, Servo, ServoStep
from vla_alignment_ros.embodiment import Embodiment, FLOAT64_MULTI_ARRAY
from vla_alignment_ros.errors import ConfigError, VlaError
from vla_alignment_ros.nodes.diagnostics import Causes, ERROR, OK, WARN
from vla_alignment_ros.nodes.servo_parameters import OWN, WITH_ARM

SILENT_ERROR_S = 3.0  # joint states are silent beyond their limit: no mere delay any more
SPARE_PERIODS = 5  # to come to rest, beyond what braking takes


class ServoLoop:
    """Serves one arm between `start` and `stop`. Thread-safe.

    Args:
        embodiment: whose topics and gripper.
        servo: that moves the arm.
        interface: how joints are commanded, one of `control.joint_commands.INTERFACES`.
        gripper: 'own' controller, the last joint 'with_arm', or 'none' of our business.
        send: publishes messages, topic by topic.
        log: takes tracebacks of what should not happen.

    Raises:
        ConfigError: velocities cannot carry the position of a gripper joint.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        servo: Servo,
        interface: str,
        gripper: str,
        send: Callable[[Mapping[str, bytes]], None],
        log: Callable[[str], None],
    ) -> None:
        if interface == VELOCITY and gripper == WITH_ARM:
            raise ConfigError(
                'gripper with_arm goes with positions: a velocity controller cannot hold a '
                'gripper joint; use own or none'
            )
        self.embodiment, self.servo = embodiment, servo
        self.causes = Causes()
        self.last: ServoStep | None = None
        self._interface, self._mode = interface, gripper
        self._send, self._log = send, log
        self._period_s = 1.0 / servo.config.rate_hz
        self._gripper = GripperMotion(embodiment, self._period_s)
        self._topic = COMMAND_TOPICS[interface][0]
        topics = embodiment.command.topics
        self._takers = {
            embodiment.joint_states_topic: self._take_joints,
            topics['twist']: self._take_twist,
            topics['gripper']: self._take_gripper,
        }
        self._new: dict[str, tuple[bytes, int]] = {}  # topic -> newest bytes, when they came
        self._open = False
        self._lock = threading.Lock()
        self._began_ns = self._states_ns = 0

    @staticmethod
    def topics(interface: str, gripper: str) -> dict[str, str]:
        """Topic -> type of what is commanded."""
        topic, msgtype = COMMAND_TOPICS[interface]
        own = {GRIPPER_TOPIC: FLOAT64_MULTI_ARRAY} if gripper == OWN else {}
        return {**own, topic: msgtype}

    def push(self, topic: str, raw: bytes, now_ns: int) -> None:
        """Take one message, undecoded. now_ns: the clock that `tick` is called with."""
        with self._lock:
            self._new[topic] = raw, now_ns

    def start(self, now_ns: int) -> None:
        """Begin to serve, from what comes in from now on."""
        with self._lock:
            self._new.clear()
            self.servo.reset()
            self._gripper.reset()
            self.last = None
            self._began_ns = self._states_ns = now_ns
            self._open = True

    def tick(self, now_ns: int) -> bool:
        """Command the next period; whether the state changed by that."""
        with self._lock:
            before = None if self.last is None else self.last.state
            if self._open:
                self._period(now_ns)
            return self.last is not None and self.last.state != before

    def stop(self, now_ns: int, why: str = 'deactivated') -> None:
        """Bring the arm to rest within its limits; when this returns nothing follows."""
        pause = threading.Event()  # never set: a paced wait
        for step in range(self.servo.motion.periods_to_rest + SPARE_PERIODS):
            with self._lock:
                if not self._open:
                    return
                self._period(now_ns + round(step * self._period_s * 1e9), why)
                if self.last is None or self.servo.motion.at_rest:
                    self._open = False
                    return
            pause.wait(self._period_s)
        with self._lock:
            self._open = False

    def judge(self, now_ns: int) -> tuple[bytes, str]:
        """Level and words for a diagnostic message, while serving."""
        last = self.last
        silent_s = (now_ns - self._states_ns) * 1e-9 - self.servo.config.state_timeout_s
        if silent_s > SILENT_ERROR_S:
            return ERROR, f'{HOLD}: {self.servo.hold_reason(now_ns)}'
        if last is None:
            return WARN, f'{HOLD}: {self.servo.hold_reason(now_ns)}'
        text = f'{last.state}: {last.reason}' if last.reason else last.state
        return (OK if last.state == GO else WARN), text

    def key_values(self) -> dict[str, str]:
        """What there is to know, for a diagnostic message."""
        last = self.last
        step = {} if last is None else {
            'state': last.state,
            'reason': last.reason,
            'condition': f'{last.condition:.1f}',
            'speed': f'{last.speed:.3f}',
        }
        return {
            'embodiment': self.embodiment.name,
            'output': self._interface,
            **step,
            **{name: str(n) for name, n in self.causes.snapshot('refused: ').items()},
        }

    # -- inside, with the lock held -------------------------------------------------------------

    def _period(self, now_ns: int, halt: str = '') -> None:
        try:
            self._take_new()
            step = self.servo.step(now_ns, halt)
            finger = self._gripper.step()
            if step is not None:
                self._send(self._messages(step, finger))
            self.last = step
        except Exception:  # noqa: BLE001 - an arm must not run on in silence
            if self.causes.add('error') == 1:
                self._log(traceback.format_exc())
            if self._interface == VELOCITY:  # that controller has no time-out
                still = np.zeros(len(self.servo.names))
                self._send({self._topic: wire.encode_float64_multi_array(still)})

    def _messages(self, step: ServoStep, finger: float | None) -> dict[str, bytes]:
        names, position, velocity = self.servo.names, step.position, step.velocity
        messages = {}
        if finger is not None and self._mode == OWN:
            messages[GRIPPER_TOPIC] = wire.encode_float64_multi_array(np.array([finger]))
        if self._mode == WITH_ARM:
            if finger is None:  # where it is is not known yet
                return {}
            names = (*names, self.embodiment.gripper.joint)
            position = np.append(position, finger)
        raw = encode_joints(self._interface, names, position, velocity, self._period_s)
        return {**messages, self._topic: raw}

    def _take_new(self) -> None:
        for topic, (raw, came_ns) in self._new.items():
            try:
                self._takers[topic](raw, came_ns)
            except VlaError as error:
                if self.causes.add(f'{topic}: {type(error).__name__}') == 1:
                    self._log(f'{topic}: {error} (further ones are only counted)')
        self._new.clear()

    def _take_joints(self, raw: bytes, came_ns: int) -> None:
        sample = wire.decode_joint_state(raw)
        self.servo.measure(sample.take(self.servo.names), came_ns)
        self._states_ns = came_ns
        finger = self.embodiment.gripper.joint
        if finger in sample.names:
            self._gripper.measure(float(sample.take((finger,))[0]))

    def _take_twist(self, raw: bytes, came_ns: int) -> None:
        sample = wire.decode_twist_stamped(raw)
        twist = np.concatenate([sample.linear, sample.angular])
        self.servo.command(twist, sample.frame_id, came_ns)

    def _take_gripper(self, raw: bytes, came_ns: int) -> None:
        self._gripper.command(wire.decode_float64(raw))
