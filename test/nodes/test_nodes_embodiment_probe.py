"""`vla_demo --check-embodiment` beside running robots: those that fit, and those that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
import json
import threading
import time

import numpy as np
import pytest
from rclpy.node import Node
from servoing import HOME

from vla_alignment_ros import wire
from vla_alignment_ros.cli.vla_demo import main
from vla_alignment_ros.embodiment import (
    Embodiment,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    STRING,
)
from vla_alignment_ros.nodes import embodiment_probe
from vla_alignment_ros.nodes.qos import latched, message_class
from vla_alignment_ros.nodes.servo_node import ServoNode

STEP_NS = 10_000_000
SECONDS = '0.5'
LIMIT_S = 60.0


class Driver:
    """Cameras and joints that speak, stamped 100 times a second, and controllers that listen."""

    def __init__(self, ros, embodiment: Embodiment, joints=None, opening=0.5) -> None:
        self.embodiment = e = embodiment
        self._names = (*sorted(e.joint_names), e.gripper.joint)
        at = dict(zip(e.joint_names, np.full(7, 0.1) if joints is None else joints))
        at[e.gripper.joint] = e.gripper.position(opening)
        self._positions = np.array([at[name] for name in self._names])
        self._images = [
            (ros.speak(c.topic, IMAGE), np.zeros((c.height, c.width, 3), np.uint8))
            for c in e.cameras
        ]
        self._joints = ros.speak(e.joint_states_topic, JOINT_STATE)
        ros.speak(e.instruction_topic, STRING, latched()).publish(wire.encode_string('wait'))
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        stamp_ns = time.time_ns()
        while not self._closing.wait(0.005):
            while stamp_ns <= time.time_ns():
                raw = wire.encode_joint_state(stamp_ns, self._names, self._positions)
                self._joints.publish(raw)
                for publisher, image in self._images:
                    publisher.publish(wire.encode_image(image, stamp_ns, 'camera'))
                stamp_ns += STEP_NS


@pytest.fixture
def robot(ros, tmp_path) -> Iterator[Callable[..., str]]:
    """Starts a robot as a shipped file says, with small pictures; the file it then fits."""
    made: list[Driver] = []

    def start(name: str, **settings) -> str:
        e = Embodiment.load(name)
        cameras = tuple(replace(c, width=16, height=16) for c in e.cameras)
        slow = dict.fromkeys(e.max_age_s, 20.0)  # a busy machine is no fault of the robot's
        e = replace(e, cameras=cameras, max_age_s=slow)
        made.append(Driver(ros, e, **settings))
        file = tmp_path / f'{name}.yaml'
        file.write_text(json.dumps(e.to_dict()))
        return str(file)

    yield start
    for driver in made:
        driver.close()


def listen(ros, name: str, topic: str, msgtype: str, **parameters) -> None:
    """A node with parameters, as a controller or MoveIt Servo is one, that hears a topic."""
    kind = partial(Node, name, automatically_declare_parameters_from_overrides=True)
    node = ros.add(kind, **parameters)
    node.create_subscription(message_class(msgtype), topic, lambda _: None, 10)


def says(file: str, capsys, wanted: Callable[[str], bool]) -> tuple[int, str]:
    """Check until it says what is wanted: what came late is there the next time."""
    end_s = time.monotonic() + LIMIT_S
    while True:
        code = main(['--check-embodiment', file, '--seconds', SECONDS])
        said = capsys.readouterr()
        assert said.err == ''
        if wanted(said.out):
            return code, said.out
        assert time.monotonic() < end_s, said.out


def test_a_servoed_arm_fits_and_the_controller_behind_the_servo_is_asked(ros, robot, capsys):
    file = robot('tabletop', joints=HOME)
    joints = Embodiment.load('tabletop').joint_names
    servo = ros.add(ServoNode, embodiment=file, output='joint_velocity', gripper='none')
    assert servo.bring_up(), servo.last_error
    take = partial(
        listen, ros, 'forward_velocity_controller', 'forward_velocity_controller/commands',
        FLOAT64_MULTI_ARRAY,
    )  # fmt: skip
    take(joints=joints)
    listen(ros, 'hand', 'gripper/command', 'std_msgs/msg/Float64')
    code, said = says(file, capsys, lambda text: 'it fits' in text)
    assert code == 0
    assert 'gripper/command: listened to by /hand\n' in said  # it is none of the servo's
    assert '/forward_velocity_controller/commands: the controller moves joint1, joint2' in said
    assert 'note   servo: it stops 0.1 s after a twist, and one comes every 0.1 s' in said


def test_joints_in_another_order_behind_a_forward_controller_are_a_fault(ros, robot, capsys):
    file = robot('ur_forward_velocity')
    joints = sorted(Embodiment.load('ur_forward_velocity').joint_names)
    topic = 'forward_velocity_controller/commands'
    listen(ros, 'forward_velocity_controller', topic, FLOAT64_MULTI_ARRAY, joints=joints)
    listen(ros, 'hand', 'gripper/command', 'std_msgs/msg/Float64')
    code, said = says(file, capsys, lambda text: text.endswith('ur_forward_velocity: 1 fault\n'))
    assert code == 1
    assert said.startswith(
        f'fault  {topic}: the controller takes elbow_joint, shoulder_lift_joint, '
        'shoulder_pan_joint, wrist_1_joint, wrist_2_joint, wrist_3_joint, in that order; it is '
        'sent shoulder_pan_joint, shoulder_lift_joint, elbow_joint'
    )


def test_moveit_servo_is_asked_for_its_units_and_time_out(ros, robot, capsys):
    file = robot('franka_servo')
    listen(
        ros, 'servo_node', 'servo_node/delta_twist_cmds', 'geometry_msgs/msg/TwistStamped',
        **{'moveit_servo.command_in_type': 'unitless',
           'moveit_servo.incoming_command_timeout': 0.05},
    )  # fmt: skip
    listen(ros, 'hand', 'gripper/command', 'std_msgs/msg/Float64')
    code, said = says(file, capsys, lambda text: 'franka_servo: 2 faults' in text)
    assert code == 1
    assert 'fault  servo: it takes unitless twists (command_in_type)' in said
    assert 'fault  servo: it stops 0.05 s after a twist' in said


def test_degrees_and_another_type_are_faults(ros, robot, capsys):
    file = robot('so101', joints=np.array([45.0, -60.0, 20.0, 10.0, 5.0]))
    topic = 'joint_trajectory_controller/joint_trajectory'
    listen(ros, 'bridge', topic, FLOAT64_MULTI_ARRAY)
    code, said = says(file, capsys, lambda text: 'so101: 2 faults' in text)
    assert code == 1
    assert 'out of range (-60): that looks like degrees' in said
    assert (
        f'fault  {topic}: it is listened to as std_msgs/msg/Float64MultiArray by /bridge, '
        'not trajectory_msgs/msg/JointTrajectory: correct the topic'
    ) in said


def test_where_nothing_runs_everything_is_missing(ros_domain, capsys, monkeypatch):
    monkeypatch.setattr(embodiment_probe, 'DISCOVERY_S', 0.1)  # there is nothing to wait for
    code, said = says('generic_jtc', capsys, bool)
    assert code == 1
    assert [line.split(':')[0] for line in said.splitlines()] == [
        'fault  front', 'fault  joint_states',
        'fault  joint_trajectory_controller/joint_trajectory', 'note   instruction', 'generic_jtc',
    ]  # fmt: skip


@pytest.mark.parametrize(
    'arguments, text',
    [(['nowhere.yaml'], 'nowhere.yaml'), (['so101', '--seconds', '0'], 'look for 0 to 600 s')],
)
def test_what_cannot_be_checked_is_one_line_and_exit_code_2(ros_domain, capsys, arguments, text):
    assert main(['--check-embodiment', *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ''
    assert said.err.startswith('vla_demo --check-embodiment: ') and text in said.err
    assert len(said.err.splitlines()) == 1
