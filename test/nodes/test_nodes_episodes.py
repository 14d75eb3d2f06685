"""training_node beside its services: motion, the instruction as a parameter, help, misfits."""

from __future__ import annotations

import os
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosbags.interfaces import QosDurability, QosHistory, QosReliability
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from tabletop_robot import Robot, start, STATUS, STEP, T0
import yaml

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter, find_episodes
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes.qos import latched, reliable, sensor_data
from vla_alignment_ros.nodes.training_node import TrainingNode

NODE = 'training_node'
WARN = DiagnosticStatus.WARN
JOINTS = (*Embodiment.load('tabletop').joint_names, 'finger_joint')


def values(node: TrainingNode) -> dict[str, str]:
    return node._recorder.key_values()


def joints(ts_ns: int, shoulder: float) -> bytes:
    position = np.zeros(8)
    position[1] = shoulder
    return wire.encode_joint_state(ts_ns, JOINTS, position)


class Shoulder:
    """Publishes joint states at 50 Hz of their stamps, one after the other is heard."""

    def __init__(self, ros, node) -> None:
        self.ros, self.node = ros, node
        self.output = ros.speak('joint_states', 'sensor_msgs/msg/JointState', reliable(1000))
        ros.matched(self.output)
        self.ts_ns, self.position = T0, 0.0

    def go_on(self, seconds: float, speed: float = 0.0) -> None:
        for _ in range(round(seconds * 50)):
            self.ts_ns += 20_000_000
            self.position += speed / 50
            self.output.publish(joints(self.ts_ns, self.position))
        self.ros.until(lambda: self.node._recorder._newest.get('joint_states') == self.ts_ns, 'it')
        control = self.node._control
        self.ros.until(lambda: not control._busy(), 'the disk')


def test_motion_begins_episodes_and_rest_ends_them(ros, tmp_path: Path):
    node = ros.add(
        TrainingNode, folder=str(tmp_path), instruction='wave', notes=['task=wave'],
        status_period_s=60.0,
        **{'auto.enabled': True, 'auto.lead_s': 60.0},
    )  # fmt: skip
    assert node.bring_up()
    arm = Shoulder(ros, node)
    for _ in range(2):
        arm.go_on(1.0)
        arm.go_on(1.5, speed=0.5)
        ros.until(lambda: node._recorder.recording, 'an episode')
        arm.go_on(2.5)
        ros.until(lambda: not node._recorder.recording, 'its end')
    arm.go_on(1.0)
    arm.go_on(0.1, speed=0.5)  # a bump
    arm.go_on(2.5)
    ros.until(lambda: not node._recorder.recording, 'its end')
    episodes = find_episodes(tmp_path)
    assert len(episodes) == 2 and len(os.listdir(tmp_path)) == 2
    for episode in episodes:
        reader = EpisodeReader(episode)
        info = reader.info
        assert (info.instruction, info.success) == ('wave', None)
        assert info.extra['task'] == 'wave'
        samples = [wire.decode_joint_state(m[3]) for m in reader.messages(['joint_states'])]
        positions = [sample.position[1] for sample in samples]
        assert positions[0] == positions[5]  # it begins before the motion, and holds all of it
        assert positions[-1] - positions[0] == pytest.approx(0.75)


def test_the_instruction_can_be_a_parameter_and_its_changes_are_messages(ros, tmp_path: Path):
    node = ros.add(TrainingNode, folder=str(tmp_path), instruction='pick up the red cube')
    assert node.bring_up()
    arm = Shoulder(ros, node)
    assert ros.trigger(f'{NODE}/start_episode').success
    arm.go_on(0.1)
    assert node.set_parameters([Parameter('instruction', value='push the ball')])[0].successful
    arm.go_on(0.1)
    topic = ros.speak('instruction', 'std_msgs/msg/String', latched())
    ros.matched(topic)
    topic.publish(wire.encode_string('push the cube'))  # the newest counts, wherever it came from
    ros.until(lambda: values(node)['label'] == 'push the cube', 'the instruction')
    assert node.set_parameters([Parameter('instruction', value='')])[0].successful  # says nothing
    reader = EpisodeReader(Path(ros.set_bool(f'{NODE}/stop_episode', True).message))
    said = [wire.decode_string(raw) for *_, raw in reader.messages(['instruction'])]
    assert said == ['pick up the red cube', 'push the ball', 'push the cube']
    assert reader.info.instruction == 'push the cube'


def test_bags_say_what_the_publishers_offered(ros, tmp_path: Path):
    Robot(ros)
    front = ros.speak('gripper/command', 'std_msgs/msg/Float64', sensor_data())
    node = ros.add(TrainingNode, folder=str(tmp_path), status_period_s=0.05)
    assert node.bring_up()
    robot = Robot(ros)
    robot.matched()
    ros.matched(front)
    ros.trigger(f'{NODE}/start_episode')
    robot.say()
    robot.show(T0)
    front.publish(wire.encode_float64(1.0))
    ros.until(lambda: len([c for c in node._recorder.counts().values() if c.written]) == 5, 'all')
    path = Path(ros.set_bool(f'{NODE}/stop_episode', True).message)
    with Reader(path) as reader:
        qos = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
    assert all(q.history == QosHistory.UNKNOWN and q.depth == 0 for qs in qos.values() for q in qs)
    kinds = {topic: [(q.reliability, q.durability) for q in qs] for topic, qs in qos.items()}
    volatile = (QosReliability.RELIABLE, QosDurability.VOLATILE)
    assert kinds['/front/image_raw'] == [volatile]  # two publishers alike
    assert kinds['/instruction'] == [(QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL)]
    assert (QosReliability.BEST_EFFORT, QosDurability.VOLATILE) in kinds['/gripper/command']


def test_compressed_images_are_recorded_as_they_come(ros, tmp_path: Path):
    document = Embodiment.load('tabletop').to_dict()
    for camera in document['cameras']:
        camera['compressed'] = True
    (tmp_path / 'robot.yaml').write_text(yaml.safe_dump(document))
    folder = tmp_path / 'demos'
    node = ros.add(TrainingNode, folder=str(folder), embodiment=str(tmp_path / 'robot.yaml'))
    assert node.bring_up(), node.last_error
    output = ros.speak('front/image_raw', 'sensor_msgs/msg/CompressedImage')
    ros.matched(output)
    ros.trigger(f'{NODE}/start_episode')
    more = bytes(range(50))  # any
    sent = [wire.encode_image(np.zeros((4, 4, 3), np.uint8), 7, 'x') + more]
    output.publish(sent[0])
    ros.until(lambda: node._recorder.counts()['front/image_raw'].written == 1, 'it')
    reader = EpisodeReader(Path(ros.set_bool(f'{NODE}/stop_episode', True).message))
    assert reader.info.message_types == {'front/image_raw': 'sensor_msgs/msg/CompressedImage'}
    assert [bytes(raw) for *_, raw in reader.messages()] == sent


@pytest.fixture
def stranger(ros_domain: int):
    """A node of another process, as DDS sees it: its topics may have types of their own."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    node = Node('stranger', context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_publisher_that_is_not_heard_is_named_and_heard_after_the_episode(
    ros, tmp_path: Path, stranger
):
    first = ros.speak('joint_states', 'sensor_msgs/msg/JointState', reliable())
    node = ros.add(TrainingNode, folder=str(tmp_path), status_period_s=0.05)
    assert node.bring_up()
    ros.until(
        lambda: node._inputs.subscriptions['joint_states'].qos_profile.reliability.name
        == 'RELIABLE', 'a reliable subscription',
    )  # fmt: skip
    status = ros.listen(f'{NODE}/status', STATUS, latched(), raw=False)
    ros.trigger(f'{NODE}/start_episode')
    late = stranger.create_publisher(JointState, 'joint_states', sensor_data())
    stranger.create_publisher(String, 'wrist/image_raw', 1)

    def told(messages) -> bool:
        found = {item.key: item.value for item in messages[-1].values} if messages else {}
        text = found.get('incompatible', '')
        return (
            messages[-1].level == WARN
            and 'joint_states of stranger' in text
            and 'wrist/image_raw of stranger is std_msgs/msg/String' in text
            and 'not heard' in messages[-1].message
        )

    status.wait_for(lambda messages: messages and told(messages))
    first.publish(joints(T0, 0.0))
    ros.until(lambda: node._recorder.counts()['joint_states'].written == 1, 'the first')
    assert ros.set_bool(f'{NODE}/stop_episode', True).success
    ros.matched(late)


def test_recordings_that_were_cut_off_are_told_at_the_start(ros, tmp_path: Path):
    writer = EpisodeWriter(tmp_path, Embodiment.load('tabletop'))
    writer.write('joint_states', 'sensor_msgs/msg/JointState', T0, joints(T0, 0.0))
    left = writer.abandon('the power went')
    with EpisodeWriter(tmp_path, writer.embodiment, 'running') as running:
        running.write('joint_states', 'sensor_msgs/msg/JointState', T0, joints(T0, 0.0))
        node = ros.add(TrainingNode, folder=str(tmp_path), status_period_s=0.05)
        assert node.bring_up()
        status = ros.listen(f'{NODE}/status', STATUS, latched(), raw=False)
        status.wait_for(lambda all_: all_ and 'vla_bag recover' in all_[-1].message)
        found = {item.key: item.value for item in status.messages[-1].values}
        assert found['unfinished'] == left.name
        assert status.messages[-1].level == WARN


def test_the_last_seconds_are_saved_when_asked(ros, tmp_path: Path):
    node = ros.add(TrainingNode, folder=str(tmp_path), keep_last_s=60.0, notes=['task=look'])
    assert node.bring_up()
    refused = ros.trigger(f'{NODE}/save_last')
    assert not refused.success and 'nothing came' in refused.message
    arm = Shoulder(ros, node)
    arm.go_on(1.0)
    saved = ros.trigger(f'{NODE}/save_last')
    assert saved.success, saved.message
    info = EpisodeReader(Path(saved.message)).info
    assert info.message_counts == {'joint_states': 50}
    assert (info.success, info.extra['task']) == (None, 'look')


def test_what_led_to_a_request_for_help_becomes_one_bag(ros, tmp_path: Path, checkpoint):
    robot, policy = start(
        ros, checkpoint, act_on_arrival=True, status_period_s=0.05,
        **{'gate.enabled': True, 'gate.go': 1.0, 'gate.help_s': 1.0},
    )  # fmt: skip
    recorder = ros.add(
        TrainingNode, folder=str(tmp_path), keep_last_s=60.0, help_interval_s=3600.0
    )
    assert recorder.bring_up()
    for output in robot.outputs.values():
        ros.matched(output, 2)
    robot.say()

    def show(steps: range) -> None:
        for step in steps:
            robot.show(T0 + step * STEP)
            robot.twist(T0 + step * STEP)

    show(range(11))  # the last stamp lies 1 s behind the first: from here on it asks for help
    ros.until(lambda: find_episodes(tmp_path), 'a bag')
    (path,) = find_episodes(tmp_path)
    info = EpisodeReader(path).info
    assert info.success is False  # it could not do it: not an example to learn from
    assert info.extra['reason'] == 'asked_for_help'
    assert 'does not seem to contain' in info.extra['asked_for_help']
    assert info.instruction == 'pick up the red cube'
    assert info.message_counts['front/image_raw'] == 11
    show(range(11, 14))  # it goes on asking
    told = policy._publish_status()
    assert {item.key: item.value for item in told.values}['needs_help']
    ros.until(lambda: recorder._recorder.counts() == {}, 'no episode')
    seen = recorder._control
    # again, but too soon: the end of the request has to be seen first
    robot.say('push the ball')
    ros.until(lambda: not seen._help, 'the end of the request')
    show(range(14, 26))
    ros.until(lambda: seen._help, 'another request')
    seen.worker.submit(lambda: None).result()
    assert find_episodes(tmp_path) == [path]


def test_a_request_for_help_during_an_episode_is_a_note_in_it(ros, tmp_path: Path):
    policy = ros.speak('other_policy/status', STATUS, latched())
    node = ros.add(TrainingNode, folder=str(tmp_path), policy_node='other_policy', keep_last_s=9.0)
    assert node.bring_up()
    ros.matched(policy)
    arm = Shoulder(ros, node)
    ros.trigger(f'{NODE}/start_episode')
    arm.go_on(0.1)
    kind = wire.make
    item = kind('diagnostic_msgs/msg/KeyValue', key='needs_help', value='no such cube')
    status = kind(
        STATUS, level=2, name='p', message='', hardware_id='', values=[item]
    )
    policy.publish(b'\xff\xff')  # hostile, or another type: nothing happens
    policy.publish(wire.encode(status))
    ros.until(lambda: node._control._help == 'no such cube', 'the request')
    info = EpisodeReader(Path(ros.set_bool(f'{NODE}/stop_episode', True).message)).info
    assert info.extra['asked_for_help'] == 'no such cube'
    assert len(find_episodes(tmp_path)) == 1


def test_notes_that_could_not_be_written_are_refused_at_once(ros, tmp_path: Path):
    node = ros.add(TrainingNode, folder=str(tmp_path))
    for notes in (['no mark'], ['success=true'], ['=x']):
        result = node.set_parameters([Parameter('notes', value=notes)])[0]
        assert not result.successful and result.reason
