"""Drives that do what they are commanded and say so in joint states, over real topics."""

from __future__ import annotations

import threading

import numpy as np
from servoing import HOME

from vla_alignment_ros import wire
from vla_alignment_ros.control.joint_commands import COMMAND_TOPICS, GRIPPER_TOPIC, VELOCITY
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes.qos import reliable, subscribe_raw
from vla_alignment_ros.nodes.servo_node import ServoNode

NODE = 'servo_node'
STATUS = 'diagnostic_msgs/msg/DiagnosticStatus'
TWIST, OPENING = 'servo/delta_twist_cmds', 'gripper/command'


class Drives:
    """The other end of a servo_node: sends twists, answers joint commands with joint states."""

    def __init__(self, ros, interface: str) -> None:
        self.embodiment = Embodiment.load('tabletop')
        self.follows = True
        self.names = (*self.embodiment.joint_names, 'finger_joint')
        self._interface, self._lock = interface, threading.Lock()
        self._position = np.append(HOME, 0.04)
        topic, msgtype = COMMAND_TOPICS[interface]
        self._states = ros.speak('joint_states', 'sensor_msgs/msg/JointState')
        self._twists = ros.speak(TWIST, 'geometry_msgs/msg/TwistStamped')
        self._openings = ros.speak(OPENING, 'std_msgs/msg/Float64')
        self.commands = ros.listen(topic, msgtype)
        self.fingers = ros.listen(GRIPPER_TOPIC, 'std_msgs/msg/Float64MultiArray')
        subscribe_raw(ros.client, topic, msgtype, self._obey, reliable())
        self.ros = ros

    def matched(self) -> None:
        for output in (self._states, self._twists, self._openings):
            self.ros.matched(output)

    def say(self, names: tuple[str, ...] | None = None) -> None:
        """Publish joint states, in the order of names."""
        names = names or self.names
        with self._lock:
            known = dict(zip(self.names, self._position))
        values = np.array([known.get(name, 9.0) for name in names])
        self._states.publish(wire.encode_joint_state(1, names, values))

    def twist(self, values, frame: str = 'base_link') -> None:
        values = np.asarray(values, float)
        self._twists.publish(wire.encode_twist_stamped(1, frame, values[:3], values[3:]))

    def open(self, opening: float) -> None:
        self._openings.publish(wire.encode_float64(opening))

    def velocities(self) -> np.ndarray:
        """(N, 7) rad/s of the commands so far."""
        raws = list(self.commands.messages)
        if self._interface == VELOCITY:
            return np.array([wire.decode_float64_multi_array(raw) for raw in raws]).reshape(-1, 7)
        return np.diff(self.positions(), axis=0) * 100.0

    def positions(self) -> np.ndarray:
        """(N, 7) rad of the trajectories so far."""
        samples = [wire.decode_joint_trajectory(raw) for raw in list(self.commands.messages)]
        return np.array([sample.positions[0, :7] for sample in samples]).reshape(-1, 7)

    def drive(self, twist, until, frame: str = 'base_link') -> None:
        """Send a twist again and again until a condition holds."""
        def again() -> bool:
            self.twist(twist, frame)
            return until()

        self.ros.until(again, 'what the twists were to lead to')

    def _obey(self, raw: bytes) -> None:
        if not self.follows:
            return
        with self._lock:
            if self._interface == VELOCITY:
                self._position[:7] += wire.decode_float64_multi_array(raw) * 0.01
            else:
                self._position[:7] = wire.decode_joint_trajectory(raw).positions[0, :7]
        self.say()


def serve(ros, **parameters) -> tuple[Drives, ServoNode]:
    """Drives that have said where they are, and an active servo_node."""
    drives = Drives(ros, parameters.get('output', 'joint_trajectory'))
    # a busy machine is no reason to stop
    parameters = {'command_timeout_s': 5.0, 'state_timeout_s': 10.0, **parameters}
    node = ros.add(ServoNode, **parameters)
    assert node.bring_up(), node.last_error
    drives.matched()
    drives.say()
    drives.commands.wait_for(len)
    return drives, node


def moving(drives: Drives) -> bool:
    velocities = drives.velocities()
    return len(velocities) > 0 and np.abs(velocities[-1]).max() > 0.05
