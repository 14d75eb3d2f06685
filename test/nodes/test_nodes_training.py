"""training_node: episodes are started, kept or forgotten by service, and counts are exact."""

from __future__ import annotations

import json
from pathlib import Path
import threading

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes import recorder_inputs
from vla_alignment_ros.nodes.qos import latched, sensor_data
from vla_alignment_ros.nodes.training_node import TrainingNode

STATUS = 'diagnostic_msgs/msg/DiagnosticStatus'
NODE = 'training_node'
PATIENCE_S = 30.0
LATCHED = ('instruction', 'intervention')
SENSED = 7  # two cameras with labels, joints, two command topics


class Robot:
    """Publishes everything a tabletop says."""

    def __init__(self, ros, cameras=None) -> None:
        self.embodiment = Embodiment.load('tabletop')
        offered = {c.topic: cameras for c in self.embodiment.cameras if cameras}
        self.outputs = {
            topic: ros.speak(
                topic, kind, latched() if topic in LATCHED else offered.get(topic)
            )
            for topic, kind in self.embodiment.recorded_topics().items()
        }

    def matched(self, ros) -> None:
        for output in self.outputs.values():
            ros.matched(output)

    def say(self, text: str) -> None:
        self.outputs['instruction'].publish(wire.encode_string(text))

    def tick(self, ts_ns: int) -> None:
        image = np.zeros((16, 16, 3), np.uint8)
        names = (*self.embodiment.joint_names, 'finger_joint')
        for camera in self.embodiment.cameras:
            raw = wire.encode_image(image, ts_ns, camera.name)
            self.outputs[camera.topic].publish(raw)
            labels = wire.encode_image(image[..., 0], ts_ns, camera.name)
            self.outputs[camera.segmentation].publish(labels)
        joints = wire.encode_joint_state(ts_ns, names, np.zeros(8))
        self.outputs['joint_states'].publish(joints)
        self.outputs['gripper/command'].publish(wire.encode_float64(1.0))
        twist = wire.encode_twist_stamped(ts_ns, 'base_link', np.zeros(3), np.zeros(3))
        self.outputs['servo/delta_twist_cmds'].publish(twist)


def _received(node: TrainingNode) -> list[int]:
    return [c.received for topic, c in node._recorder.counts().items() if topic not in LATCHED]


def test_an_episode_holds_what_was_sent_between_start_and_stop(ros, tmp_path: Path):
    robot = Robot(ros)
    node = ros.add(TrainingNode, folder=str(tmp_path), notes=['task=push', 'seed=3'])
    assert node.bring_up()
    robot.matched(ros)
    robot.say('push the ball left')
    robot.outputs['intervention'].publish(wire.encode_bool(True))
    started = ros.trigger(f'{NODE}/start_episode')
    assert started.success
    for step in range(1, 6):
        robot.tick(step * 100_000_000)
    ros.until(lambda: _received(node) == [5] * SENSED, 'five of each')
    ros.until(lambda: node._recorder.counts()['intervention'].received == 1, 'who drives')
    stopped = ros.set_bool(f'{NODE}/stop_episode', True)
    assert stopped.success, stopped.message
    info = EpisodeReader(Path(stopped.message)).info
    assert Path(stopped.message).name == started.message
    assert info.instruction == 'push the ball left'
    assert info.success is True
    assert info.extra['task'] == 'push'
    assert info.extra['seed'] == '3'
    assert info.embodiment == robot.embodiment
    assert info.extra['interventions'] == '1'
    assert info.message_counts.pop('intervention') == 1
    assert {t: n for t, n in info.message_counts.items() if t not in LATCHED} == {
        topic: 5 for topic in robot.outputs if topic not in LATCHED
    }


def test_notes_come_back_as_they_were_given(ros, tmp_path: Path):
    notes = {
        'group': 'place red cube blue',
        'formula': 'a=b=c ',
        'tray': '',
        'episode': json.dumps({'text': 'it\'s "ö": #1, {x}\n', 'list': [1, 2.5e-05, None]}),
    }
    robot = Robot(ros)
    node = ros.add(
        TrainingNode, folder=str(tmp_path), notes=[f'{k}={v}' for k, v in notes.items()]
    )
    assert node.bring_up()
    robot.matched(ros)
    ros.trigger(f'{NODE}/start_episode')
    robot.tick(100_000_000)
    ros.until(lambda: _received(node) == [1] * SENSED, 'one of each')
    stopped = ros.set_bool(f'{NODE}/stop_episode', True)
    assert stopped.success, stopped.message
    assert EpisodeReader(Path(stopped.message)).info.extra == notes


def test_a_broken_instruction_shows_as_a_warning_and_costs_nothing(ros, tmp_path: Path):
    robot = Robot(ros)
    node = ros.add(TrainingNode, folder=str(tmp_path), status_period_s=0.05)
    assert node.bring_up()
    robot.matched(ros)
    status = ros.listen(f'{NODE}/status', STATUS, latched(), raw=False)
    ros.trigger(f'{NODE}/start_episode')
    node._on_message('instruction', b'\x00\x01\x00\x00\xff\xff\xff\x7f')
    status.wait_for(lambda all_: all_ and 'broken' in all_[-1].message)
    assert status.messages[-1].level == DiagnosticStatus.WARN
    robot.tick(100_000_000)
    ros.until(lambda: _received(node) == [1] * SENSED, 'one of each')
    assert ros.set_bool(f'{NODE}/stop_episode', True).success


def test_best_effort_cameras_are_recorded_too(ros, tmp_path: Path):
    robot = Robot(ros, cameras=sensor_data())
    node = ros.add(TrainingNode, folder=str(tmp_path))
    assert node.bring_up()
    robot.matched(ros)
    ros.trigger(f'{NODE}/start_episode')
    robot.tick(100_000_000)
    ros.until(lambda: _received(node) == [1] * SENSED, 'one of each')
    assert ros.trigger(f'{NODE}/discard_episode').success
    assert find_episodes(tmp_path) == []


def test_between_episodes_it_becomes_reliable_where_publishers_are(ros, tmp_path: Path):
    node = ros.add(TrainingNode, folder=str(tmp_path), status_period_s=0.05)
    assert node.bring_up()
    Robot(ros)

    def reliable_everywhere() -> bool:
        offers = ros.client.get_subscriptions_info_by_topic('/front/image_raw')
        return bool(offers) and all(o.qos_profile.reliability.name == 'RELIABLE' for o in offers)

    ros.until(reliable_everywhere, 'a reliable subscription')


def _reliable(node: TrainingNode) -> set[str]:
    return {
        topic
        for topic, subscription in node._inputs.subscriptions.items()
        if subscription.qos_profile.reliability.name == 'RELIABLE'
    }


def test_an_episode_that_begins_keeps_its_subscriptions(ros, tmp_path: Path, monkeypatch):
    node = ros.add(TrainingNode, folder=str(tmp_path), status_period_s=60.0)
    assert node.bring_up()
    Robot(ros)
    ros.until(lambda: ros.client.count_publishers('front/image_raw') == 1, 'a publisher')
    before = _reliable(node)
    assert 'front/image_raw' not in before
    entered, go_on = threading.Event(), threading.Event()
    start = node._recorder.start

    def slow_disk(*arguments) -> str:
        entered.set()
        assert go_on.wait(PATIENCE_S)
        return start(*arguments)

    monkeypatch.setattr(node._recorder, 'start', slow_disk)
    starting = threading.Thread(target=ros.trigger, args=(f'{NODE}/start_episode',))
    starting.start()
    assert entered.wait(PATIENCE_S)
    node._on_timer()  # does not wait for the disk either
    during = _reliable(node)
    go_on.set()
    starting.join(PATIENCE_S)
    assert during == before


def test_a_node_that_is_put_down_while_it_follows_publishers_leaves_nothing_behind(
    ros, tmp_path: Path, monkeypatch
):
    node = ros.add(TrainingNode, folder=str(tmp_path), status_period_s=60.0)
    assert node.bring_up()
    Robot(ros)
    ros.until(lambda: ros.client.count_publishers('front/image_raw') == 1, 'a publisher')
    matching = recorder_inputs.matching_publishers
    down: list[threading.Thread] = []

    def put_down() -> None:
        assert ros.transition(NODE, 'deactivate')
        assert ros.transition(NODE, 'cleanup')

    def interrupted(*args):
        if not down:
            down.append(threading.Thread(target=put_down))
            down[0].start()
            down[0].join(1.0)  # it may have to wait until this is through
        return matching(*args)

    inputs = node._inputs
    monkeypatch.setattr(recorder_inputs, 'matching_publishers', interrupted)
    node._on_timer()
    down[0].join(PATIENCE_S)
    assert ros.state(NODE) == 'unconfigured'
    assert inputs.subscriptions == {}
    ros.until(
        lambda: ros.client.count_subscribers('front/image_raw') == 0, 'the last subscription to go'
    )


def test_services_are_refused_with_the_reason(ros, tmp_path: Path):
    node = ros.add(TrainingNode, folder=str(tmp_path))
    refused = ros.trigger(f'{NODE}/start_episode')
    assert not refused.success
    assert 'not active' in refused.message
    assert node.bring_up()
    refused = ros.set_bool(f'{NODE}/stop_episode', True)
    assert not refused.success
    assert 'start one first' in refused.message
    assert ros.trigger(f'{NODE}/start_episode').success
    assert 'stop or discard' in ros.trigger(f'{NODE}/start_episode').message


def test_deactivating_finishes_the_episode_with_success_unknown(ros, tmp_path: Path):
    robot = Robot(ros)
    node = ros.add(TrainingNode, folder=str(tmp_path))
    assert node.bring_up()
    robot.matched(ros)
    ros.trigger(f'{NODE}/start_episode')
    robot.tick(100_000_000)
    ros.until(lambda: _received(node) == [1] * SENSED, 'one of each')
    assert ros.transition(NODE, 'deactivate')
    (episode,) = find_episodes(tmp_path)
    assert EpisodeReader(episode).info.success is None


def test_status_tells_counts(ros, tmp_path: Path):
    robot = Robot(ros)
    node = ros.add(TrainingNode, folder=str(tmp_path), status_period_s=0.05)
    assert node.bring_up()
    robot.matched(ros)
    ros.trigger(f'{NODE}/start_episode')
    robot.tick(100_000_000)
    status = ros.listen(f'{NODE}/status', STATUS, latched(), raw=False)

    def counted(messages):
        values = {item.key: item.value for item in messages[-1].values} if messages else {}
        return (
            values.get('state') == 'recording'
            and values.get('front/image_raw') == 'received 1, written 1, dropped 0'
        )

    status.wait_for(counted)


def test_an_unusable_folder_is_a_refusal_and_not_a_crash(ros, tmp_path: Path):
    (tmp_path / 'file').write_text('')
    node = ros.add(TrainingNode, folder=str(tmp_path / 'file' / 'demos'))
    assert node.bring_up()
    refused = ros.trigger(f'{NODE}/start_episode')
    assert not refused.success
    assert 'cannot record into' in refused.message
    assert not node._recorder.recording
