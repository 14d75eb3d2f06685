"""A robot that is as its file says fits; each thing that is not is said, with its mend."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from servoing import HOME

from vla_alignment_ros import wire
from vla_alignment_ros.control.live_check import check_live
from vla_alignment_ros.control.live_seen import (
    ControllerSeen,
    Endpoint,
    FAULT,
    Finding,
    GraphSeen,
    Heard,
    NOTE,
    OK,
    ServoSeen,
    TopicSeen,
)
from vla_alignment_ros.embodiment import (
    COMPRESSED_IMAGE,
    Embodiment,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    STRING,
)

SHIPPED = (
    'franka_servo', 'generic_jtc', 'so101', 'tabletop', 'ur_forward_velocity', 'ur_servo',
)  # fmt: skip
NOW_NS = 1_700_000_000_000_000_000
VELOCITIES = 'forward_velocity_controller/commands'
TRAJECTORY = 'joint_trajectory_controller/joint_trajectory'


class Robot:
    """What is seen of a robot; a test changes one thing of it."""

    def __init__(self, name: str) -> None:
        e = self.embodiment = Embodiment.load(name)
        self.names = ('elsewhere', *reversed(e.joint_names), e.gripper.joint)
        arm = dict.fromkeys(e.joint_names, 0.1) | dict(zip(e.joint_names, HOME))
        if name != 'tabletop':
            arm = dict.fromkeys(e.joint_names, 0.1)
        half = (e.gripper.open_position + e.gripper.closed_position) / 2
        self.position = {**arm, e.gripper.joint: half, 'elsewhere': 99.0}
        self.rates = dict.fromkeys(('joint_states', *(c.name for c in e.cameras)), 30.0)
        self.behind_s = 0.02  # stamps behind the system's clock
        self.simulated = False  # stamps by /clock
        self.encodings = {camera.name: (camera.height, camera.width) for camera in e.cameras}
        self.raw: dict[str, bytes] = {}  # topic -> every message of it
        topics = {**e.observation_topics(), **e.command_topics()}
        self.ends = {
            topic: [Endpoint('/driver', msgtype, transient_local=msgtype == STRING)]
            for topic, msgtype in topics.items()
        }
        self.others: dict[str, tuple[str, ...]] = {}
        self.controllers: dict[str, ControllerSeen] = {}
        self.servo: ServoSeen | None = None
        self.rivals: dict[str, tuple[Endpoint, ...]] = {}  # publishers of commands

    def findings(self) -> list[Finding]:
        e = self.embodiment
        topics = {}
        for topic in e.observation_topics():
            topics[topic] = TopicSeen(publishers=tuple(self.ends[topic]))
        for topic in e.command_topics():
            topics[topic] = TopicSeen(self.rivals.get(topic, ()), tuple(self.ends[topic]))
        for source, rate in self.rates.items():
            topic = next((c.topic for c in e.cameras if c.name == source), e.joint_states_topic)
            if self.ends[topic]:
                stamps = NOW_NS - np.arange(round(2 * rate), 0, -1) * round(1e9 / rate)
                heard = tuple(self._heard(source, topic, int(stamp)) for stamp in stamps)
                topics[topic] = replace(topics[topic], messages=heard)
        return check_live(
            e, GraphSeen(topics, self.others, self.controllers, self.servo)
        )

    def _heard(self, source: str, topic: str, now_ns: int) -> Heard:
        stamp_ns = (now_ns - NOW_NS + 10**12) if self.simulated else now_ns
        stamp_ns -= round(self.behind_s * 1e9)
        raw = self.raw.get(topic)
        if raw is None and source == 'joint_states':
            values = np.array([self.position[name] for name in self.names])
            raw = wire.encode_joint_state(stamp_ns, self.names, values)
        elif raw is None:
            raw = wire.encode_image(np.zeros((*self.encodings[source], 3), np.uint8), stamp_ns, '')
        return Heard(raw, now_ns, now_ns, now_ns - NOW_NS + 10**12 if self.simulated else 0)


def change(attribute: str, key: str, value: object, robot: Robot) -> None:
    getattr(robot, attribute)[key] = value


def scale(joint: str, factor: float, robot: Robot) -> None:
    robot.position[joint] *= factor


def setting(attribute: str, value: object, robot: Robot) -> None:
    setattr(robot, attribute, value)


def degrees(robot: Robot) -> None:
    for joint in robot.embodiment.joint_names:
        robot.position[joint] = np.rad2deg(robot.position[joint]) * 8.0


def unnamed(name: str, robot: Robot) -> None:
    robot.names = tuple(n for n in robot.names if n != name)


@pytest.mark.parametrize('name', SHIPPED)
def test_a_robot_as_described_fits(name):
    robot = Robot(name)
    found = robot.findings()
    assert [f for f in found if f.level == FAULT] == []
    fine = {f.subject for f in found if f.level == OK}
    assert fine == {
        'joint_states', 'instruction', *(c.name for c in robot.embodiment.cameras),
        *robot.embodiment.command_topics(),
    }  # fmt: skip


UR = Embodiment.load('ur_servo').joint_names
SO101 = Embodiment.load('so101').joint_names
ALPHABETIC = tuple(sorted(UR))
off = partial(partial, change, 'ends')  # who is at a topic
front, wrist = 'front_camera/image_raw', 'wrist_camera/image_raw'
color = 'front_camera/color/image_raw'


@pytest.mark.parametrize(
    'name, broken, subject, text',
    [
        # missing
        ('franka_servo', off(color, []), 'front', f'nobody publishes {color}'),
        ('so101', partial(unnamed, 'wrist_roll'), 'joint_states',
         'lacks a position for wrist_roll; it names elsewhere'),
        ('so101', partial(unnamed, 'gripper'), 'joint_states',
         'correct joint_names or gripper.joint'),
        ('generic_jtc', off(TRAJECTORY, []), TRAJECTORY,
         'nobody listens to it: start the controller or remap'),
        ('ur_servo', partial(change, 'rates', 'front', 0.5), 'front', '0.0 Hz is too slow'),
        # mistyped
        ('franka_servo', off(color, [Endpoint('/realsense', COMPRESSED_IMAGE)]), 'front',
         'is published as sensor_msgs/msg/CompressedImage by /realsense, not '
         'sensor_msgs/msg/Image: set compressed: true'),
        ('franka_servo',
         off('servo_node/delta_twist_cmds', [Endpoint('/base', 'geometry_msgs/msg/Twist')]),
         'servo_node/delta_twist_cmds', 'not geometry_msgs/msg/TwistStamped: correct the topic'),
        ('generic_jtc', off(TRAJECTORY, [Endpoint('/c', FLOAT64_MULTI_ARRAY)]), TRAJECTORY,
         'is listened to as std_msgs/msg/Float64MultiArray by /c'),
        ('so101', partial(change, 'raw', wrist, b'\0\1\0\0'), 'wrist',
         f'what comes on {wrist} is no whole sensor_msgs/msg/Image'),
        ('so101', partial(change, 'raw', wrist,
                          wire.encode_image(np.zeros((4, 4, 3), np.uint8), NOW_NS, '')[:-9]),
         'wrist', 'its images cannot be used'),
        # wrongly ordered
        ('ur_forward_velocity',
         partial(change, 'controllers', VELOCITIES,
                 ControllerSeen(FLOAT64_MULTI_ARRAY, ALPHABETIC)),
         VELOCITIES, 'in that order; it is sent shoulder_pan_joint, shoulder_lift_joint'),
        ('ur_servo', partial(change, 'controllers', '/c/commands',
                             ControllerSeen(FLOAT64_MULTI_ARRAY, ALPHABETIC)),
         '/c/commands', 'every joint would get the value of another'),
        ('so101', partial(change, 'controllers', TRAJECTORY,
                          ControllerSeen(JOINT_TRAJECTORY, SO101)),
         TRAJECTORY, 'it is sent shoulder_pan, shoulder_lift, elbow_flex, wrist_flex, '
                     'wrist_roll, gripper'),
        # too slow
        ('ur_servo', partial(change, 'rates', 'wrist', 15.0), 'wrist',
         '15.0 Hz is too slow: a policy at 20 Hz needs as many'),
        ('franka_servo', partial(setting, 'servo', ServoSeen(0.05)), 'servo',
         'it stops 0.05 s after a twist, and one comes every 0.1 s: the arm stutters; set its '
         'time-out to 0.2 s'),
        # in the wrong unit
        ('so101', degrees, 'joint_states', 'that looks like degrees, radians are wanted'),
        ('franka_servo', degrees, 'joint_states', 'that looks like degrees, radians are wanted'),
        ('generic_jtc', partial(scale, 'gripper_joint', 1000.0), 'joint_states',
         'gripper_joint is at 25, not within 0 (closed) … 0.05 (open): that looks like '
         'millimetres'),
        ('ur_servo', partial(change, 'position', 'robotiq_85_left_knuckle_joint', 22.0),
         'joint_states', 'that looks like degrees or per cent, radians are wanted'),
        ('so101', partial(change, 'position', 'gripper', 55.0), 'joint_states',
         'that looks like degrees or per cent, radians are wanted'),
        ('franka_servo', partial(change, 'position', 'fr3_finger_joint1', 0.08), 'joint_states',
         'correct open_position and closed_position'),
        ('generic_jtc', partial(change, 'position', 'joint_2', 2.4), 'joint_states',
         'joint_2 is out of range (2.4): correct the limits of the embodiment or its URDF; or '
         'are these degrees?'),
        ('ur_forward_velocity', partial(change, 'position', 'elbow_joint', 3.5), 'joint_states',
         'elbow_joint is out of range (3.5): correct the limits'),
        ('franka_servo', partial(setting, 'servo', ServoSeen(0.25, unitless=True)), 'servo',
         'it takes unitless twists (command_in_type)'),
        # clocks, and who else is there
        ('ur_servo', partial(setting, 'behind_s', 0.3), 'joint_states',
         'it comes 0.30 s after its stamp (limit 0.10 s)'),
        ('ur_servo', partial(setting, 'behind_s', -0.2), 'front', '0.20 s in the future'),
        ('ur_servo', partial(setting, 'behind_s', 5000.0), 'front', 'differ by 5000 s'),
        ('tabletop', partial(change, 'raw', 'front/image_raw',
                             wire.encode_image(np.zeros((128, 128, 3), np.uint8), 0, '')),
         'front', 'it is not stamped (0)'),
        ('so101', off('instruction', [Endpoint('/llm', STRING)]), 'instruction',
         '/llm offers instruction not transient local, so nothing of it arrives'),
        ('generic_jtc', off(TRAJECTORY, [Endpoint('/c', JOINT_TRAJECTORY, True, True)]),
         TRAJECTORY, '/c asks for transient local'),
        ('generic_jtc', off('joint_states', [Endpoint('/a', JOINT_STATE)] * 2), 'joint_states',
         'has more than one publisher: /a, /a'),
        ('so101', partial(change, 'encodings', 'front', (120, 160)), 'front',
         '160x120 pixels would be enlarged to 224x224'),
    ],
)  # fmt: skip
def test_what_is_not_as_described_is_said_with_its_mend(name, broken, subject, text):
    robot = Robot(name)
    broken(robot)
    faults = [f for f in robot.findings() if f.level == FAULT]
    assert [f for f in faults if f.subject == subject and text in f.text], faults


@pytest.mark.parametrize(
    'name, broken, subject, text',
    [
        ('so101', off('instruction', []), 'instruction', 'nothing moves before somebody does'),
        ('so101', partial(change, 'encodings', 'front', (480, 640)), 'front', 'squeezed'),
        ('ur_servo', partial(setting, 'simulated', True), 'front', 'set use_sim_time'),
        ('ur_forward_velocity',
         partial(change, 'controllers', VELOCITIES, ControllerSeen(FLOAT64_MULTI_ARRAY, ())),
         VELOCITIES, 'compare for yourself, it is sent shoulder_pan_joint, shoulder_lift_joint'),
        ('franka_servo', partial(setting, 'servo', ServoSeen(0.1)), 'servo',
         'one that is late stops the arm; set its time-out to 0.2 s'),
        ('generic_jtc', partial(change, 'rivals', TRAJECTORY,
                                (Endpoint('/moveit', JOINT_TRAJECTORY),)),
         TRAJECTORY, '/moveit commands it already'),
    ],
)  # fmt: skip
def test_what_is_worth_knowing_is_no_fault(name, broken, subject, text):
    robot = Robot(name)
    broken(robot)
    found = robot.findings()
    assert [f for f in found if f.level == FAULT] == []
    assert [f for f in found if (f.level, f.subject) == (NOTE, subject) and text in f.text], found


@pytest.mark.parametrize(
    'name, topic, controller',
    [
        ('ur_forward_velocity', VELOCITIES, ControllerSeen(FLOAT64_MULTI_ARRAY, UR)),
        ('ur_servo', '/velocities/commands', ControllerSeen(FLOAT64_MULTI_ARRAY, UR)),
        ('ur_servo', '/arm/joint_trajectory', ControllerSeen(JOINT_TRAJECTORY, ALPHABETIC)),
        ('tabletop', '/hand/commands', ControllerSeen(FLOAT64_MULTI_ARRAY, ('finger_joint',))),
        ('so101', TRAJECTORY, ControllerSeen(JOINT_TRAJECTORY, ('gripper', *SO101))),
    ],
)
def test_a_controller_of_the_same_joints_fits(name, topic, controller):
    robot = Robot(name)
    robot.controllers = {topic: controller}
    found = robot.findings()
    assert [f for f in found if f.level == FAULT] == []
    assert [f for f in found if f.subject == topic and 'the controller moves' in f.text]


def test_a_topic_elsewhere_is_named_where_the_right_one_is_missing():
    robot = Robot('ur_servo')
    robot.ends['joint_states'] = []
    robot.others = {JOINT_STATE: ('/ur/joint_states',), IMAGE: ('/other',)}
    first = robot.findings()[0]  # the faults come first
    assert first == Finding(
        FAULT, 'joint_states',
        'nobody publishes joint_states; sensor_msgs/msg/JointState is on /ur/joint_states: '
        'remap, or correct the embodiment',
    )  # fmt: skip
