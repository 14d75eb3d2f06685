"""simulator_node: time only passes as it should, and the past never reaches the present."""

from __future__ import annotations

import json
import threading

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
import pytest
from rclpy.parameter import Parameter

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes.qos import latched
from vla_alignment_ros.nodes.simulator_node import SimulatorNode
from vla_alignment_ros.nodes.world_host import WorldHost

JOINTS = 'sensor_msgs/msg/JointState'
PATIENCE_S = 30.0
ACTION = np.array([0.01, 0.0, -0.01, 0.0, 0.0, 0.0, 1.0])


@pytest.fixture
def codec():
    return make_codec(Embodiment.load('tabletop'))


class Pilot:
    """Sends commands and sees the joint states that come back."""

    def __init__(self, ros, codec) -> None:
        self._codec = codec
        self._outputs = {t: ros.speak(t, kind) for t, kind in codec.topics.items()}
        self.joints = ros.listen('joint_states', JOINTS)
        for output in self._outputs.values():
            ros.matched(output)
        ros.until(lambda: ros.client.count_publishers('joint_states') > 0, 'joint states')

    def send(self, action: np.ndarray, ts_ns: int) -> None:
        for topic, raw in self._codec.encode(action, ts_ns).items():
            self._outputs[topic].publish(raw)

    def stamps(self) -> list[int]:
        return [wire.stamp_ns(raw, JOINTS) for raw in self.joints.messages]

    def see(self, after_ns: int = 0) -> int:
        """Stamp of the first observation later than after_ns, once it came."""
        later = self.joints.wait_for(
            lambda raws: [s for s in self.stamps() if s > after_ns]
        )
        return later[0]


def _lockstep(ros, codec, **parameters) -> tuple[SimulatorNode, Pilot]:
    node = ros.add(SimulatorNode, lockstep=True, reset_on_start=False, **parameters)
    return node, Pilot(ros, codec)


def test_in_lockstep_only_the_command_for_the_moment_lets_time_pass(ros, codec):
    _, pilot = _lockstep(ros, codec)
    assert ros.trigger('simulator_node/reset').success
    first = pilot.see()
    pilot.send(ACTION, first - 1)  # another moment's
    repeats = pilot.joints.wait_for(
        lambda raws: raws if len(raws) >= 4 else None  # unanswered, it is published again
    )
    assert len({bytes(raw) for raw in repeats}) == 1
    pilot.send(ACTION, first)
    assert pilot.see(first) == first + 100_000_000
    assert set(pilot.stamps()) == {first, first + 100_000_000}


def test_repeats_do_not_pile_up_before_the_command_that_ends_them(ros, codec):
    node, pilot = _lockstep(ros, codec, lockstep_retry_s=3600.0)
    ros.trigger('simulator_node/reset')
    first = pilot.see()
    go_on = threading.Event()
    node._world_thread.submit(go_on.wait, PATIENCE_S)  # as on a busy machine
    for _ in range(20):
        node._retry()
    pilot.send(ACTION, first)
    ros.until(lambda: node._world_thread._pool._work_queue.qsize() >= 2, 'the command')
    for _ in range(20):
        node._retry()
    go_on.set()
    second = pilot.see(first)
    pilot.send(ACTION, second)
    third = pilot.see(second)
    assert pilot.stamps() == [first, first, second, third]


def test_a_command_of_the_last_episode_never_moves_the_next(ros, codec):
    _, pilot = _lockstep(ros, codec)
    ros.trigger('simulator_node/reset')
    first = pilot.see()
    ros.trigger('simulator_node/reset')
    second = pilot.see(first)
    assert second > first + 1_000_000_000
    pilot.send(ACTION, first)
    pilot.send(ACTION, second)
    third = pilot.see(second)
    assert third == second + 100_000_000  # one step, not two
    status = ros.listen('simulator_node/status', 'diagnostic_msgs/msg/DiagnosticStatus', raw=False)
    values = status.wait_for(lambda messages: messages and _values(messages[-1]))
    assert values['steps'] == '1'
    assert values['refused: command for another moment'] == '1'


def test_the_same_seed_and_commands_give_the_same_bytes(ros, codec):
    node, pilot = _lockstep(ros, codec, split='val', seed=4)
    pictures = ros.listen('front/image_raw', 'sensor_msgs/msg/Image')
    ros.until(lambda: ros.client.count_publishers('front/image_raw') > 0, 'the camera')
    runs = []
    for _ in range(2):
        before = len(pictures.messages)
        ts_ns = max(pilot.stamps(), default=0)
        ros.trigger('simulator_node/reset')
        for _ in range(3):
            ts_ns = pilot.see(ts_ns)
            pilot.send(ACTION, ts_ns)
        ts_ns = pilot.see(ts_ns)
        pictures.wait_for(
            lambda raws, ts_ns=ts_ns: wire.stamp_ns(raws[-1], 'sensor_msgs/msg/Image') == ts_ns
        )
        frames = {
            frame.ts_ns: frame.image
            for frame in map(wire.decode_image, pictures.messages[before:])
        }
        runs.append([frames[stamp] for stamp in sorted(frames)])
    assert len(runs[0]) == len(runs[1]) == 4
    for one, other in zip(*runs):
        np.testing.assert_array_equal(one, other)


def test_a_reset_describes_the_episode_and_tells_the_instruction(ros, codec):
    node, _ = _lockstep(ros, codec, publish_instruction=True)
    said = ros.listen('instruction', 'std_msgs/msg/String', latched())
    node.set_parameters([Parameter('split', value='val'), Parameter('seed', value=7)])
    spec = json.loads(ros.trigger('simulator_node/reset').message)
    assert (spec['split'], spec['seed']) == ('val', 7)
    said.wait_for(lambda raws: raws and wire.decode_string(raws[-1]) == spec['instruction'])


def test_free_running_the_arm_stops_when_commands_stop(ros, codec):
    ros.add(SimulatorNode, real_time_factor=20.0, command_timeout_s=0.3)
    node = ros.nodes[-1]
    node.begin()
    pilot = Pilot(ros, codec)
    sent = pilot.see()
    pilot.send(np.array([0.02, 0, 0, 0, 0, 0, 0.0]), 1)

    def settled(raws):
        samples = [wire.decode_joint_state(raw) for raw in raws]
        later = [s for s in samples if s.ts_ns > sent + 2_000_000_000]
        return samples[0], later if len(later) > 5 else None

    first, later = pilot.joints.wait_for(lambda raws: settled(raws)[1] and settled(raws))
    assert np.abs(later[-1].position[:7] - first.position[:7]).max() > 0.01  # it did move
    assert np.abs(later[-1].velocity[:7]).max() < 0.02
    assert later[-1].position[7] < 0.01  # the gripper stays as commanded
    steps = np.diff([sample.ts_ns for sample in later])
    assert (steps == 100_000_000).all()


def test_broken_commands_are_counted_and_change_nothing(ros, codec):
    node, pilot = _lockstep(ros, codec)
    ros.trigger('simulator_node/reset')
    first = pilot.see()
    raw = codec.encode(ACTION, first)
    pilot._outputs['gripper/command'].publish(raw['gripper/command'])
    nan = wire.encode_twist_stamped(first, 'base_link', np.full(3, np.nan), np.zeros(3))
    pilot._outputs['servo/delta_twist_cmds'].publish(nan)
    ros.until(lambda: node._causes.snapshot(), 'a refusal')
    assert set(pilot.stamps()) == {first}
    pilot.send(ACTION, first)
    assert pilot.see(first) == first + 100_000_000


def test_an_embodiment_that_the_simulator_cannot_be_is_refused():
    with pytest.raises(ConfigError, match='takes ee_delta'):
        WorldHost(Embodiment.load('generic_jtc'))


def _values(message: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in message.values}
