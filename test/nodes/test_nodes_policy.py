"""policy_node: a command for what it sees, a hold for everything it should not act on."""

from __future__ import annotations

from pathlib import Path
import threading
import time

import numpy as np
import pytest
from tabletop_robot import moves, NODE, PATIENCE_S, Robot, start, STATUS, STEP, T0, TWIST

from vla_alignment_ros import wire
from vla_alignment_ros.nodes.policy_node import CHUNK_TOPIC, PolicyNode, SCORE_TOPIC, SCORES
from vla_alignment_ros.nodes.simulator_node import SimulatorNode


def test_on_arrival_every_complete_observation_gets_one_command_with_its_stamp(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    scores = ros.listen(NODE + SCORE_TOPIC[1:], 'std_msgs/msg/Float64MultiArray', raw=False)
    chunks = ros.listen(NODE + CHUNK_TOPIC[1:], 'trajectory_msgs/msg/JointTrajectory')
    for topic in (SCORE_TOPIC, CHUNK_TOPIC):
        ros.until(lambda t=topic: ros.client.count_publishers(NODE + t[1:]) == 1, topic)
    robot.say()
    for step in range(4):
        robot.show(T0 + step * STEP)
        assert moves(robot.twist(T0 + step * STEP))
    assert robot.stamps() == [T0 + step * STEP for step in range(4)]
    robot.grippers.wait_for(lambda raws: len(raws) == 4)
    last = scores.wait_for(lambda messages: len(messages) == 4 and messages[-1])
    assert tuple(d.label for d in last.layout.dim) == SCORES
    assert 0.0 <= last.data[0] <= 1.0
    chunk = wire.decode_joint_trajectory(chunks.wait_for(lambda raws: len(raws) == 4 and raws[-1]))
    assert chunk.ts_ns == T0 + 3 * STEP
    assert chunk.names == robot.embodiment.action.names


def test_an_observation_is_answered_once_it_is_complete_and_not_before(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    robot.show(T0)  # before any instruction
    robot.say()
    robot.twist(T0)  # the instruction completes it
    robot.show(T0 + STEP, but=('wrist',))

    def came() -> bool:
        stamps = node._loop.buffer.snapshot().stamps_ns
        return stamps['front'] == stamps['joint_states'] == T0 + STEP

    ros.until(came, 'all but the wrist camera')
    assert not node._loop._is_due()
    assert robot.stamps() == [T0]
    robot.show(T0 + STEP, but=('front', 'joint_states'))
    robot.twist(T0 + STEP)
    assert robot.stamps() == [T0, T0 + STEP]


def test_the_same_observation_again_gets_the_same_command_again(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    robot.say()
    robot.show(T0)
    robot.twist(T0)
    robot.show(T0)
    both = robot.twists.wait_for(lambda raws: len(raws) >= 2 and raws)
    assert bytes(both[0]) == bytes(both[1])
    assert node._loop.decisions == 1


def test_a_gate_that_holds_still_answers_with_a_stop(ros, checkpoint):
    robot, node = start(
        ros,
        checkpoint,
        act_on_arrival=True,
        **{'gate.enabled': True, 'gate.go': 1.0, 'gate.hold': 1.0},
    )
    decisions = ros.listen(f'{NODE}/decision', STATUS, raw=False)
    robot.say()
    for step in range(3):
        robot.show(T0 + step * STEP)
        assert not moves(robot.twist(T0 + step * STEP))
    assert decisions.wait_for(lambda messages: messages)[-1].message == 'hold'


def test_a_lying_image_is_a_hold_that_is_counted(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    robot.say()
    robot.show(T0)
    robot.twist(T0)
    honest = wire.encode_image(np.zeros((64, 64, 3), np.uint8), T0 + STEP, 'front')
    robot.outputs['front/image_raw'].publish(honest[:-1000])  # claims more than it carries
    robot.show(T0 + STEP, but=('front',))
    assert not moves(robot.twist(T0 + STEP))
    assert node._loop.causes.snapshot() == {'WireError': 1}
    robot.show(T0 + 2 * STEP)
    assert moves(robot.twist(T0 + 2 * STEP))


@pytest.mark.parametrize('silent', ['front', 'wrist', 'joint_states'])
def test_at_the_control_rate_the_arm_stops_when_a_source_falls_silent(
    ros, checkpoint, silent: str
):
    robot, node = start(ros, checkpoint, watchdog_s=0.5, status_period_s=0.1)
    statuses = ros.listen(f'{NODE}/status', STATUS, raw=False)
    robot.say()

    def moving(raws):
        robot.show(time.time_ns())
        return raws and moves(wire.decode_twist_stamped(raws[-1]))

    ros.until(lambda: moving(robot.twists.messages), 'motion')

    def stopped():
        robot.show(time.time_ns(), but=(silent,))
        return f'{silent} is' in node._loop.last.reason

    ros.until(stopped, 'a stop for that reason')
    assert not moves(wire.decode_twist_stamped(node._loop.last.messages[TWIST]))
    count = len(robot.twists.messages)
    robot.twists.wait_for(lambda raws: len(raws) > count + 2)  # the hold goes on being said
    statuses.wait_for(lambda messages: f'{silent} is' in messages[-1].message)


def test_on_arrival_the_arm_stops_when_everything_falls_silent(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True, watchdog_s=2.0)
    robot.say()
    for step in range(3):
        robot.show(T0 + step * STEP)
        assert moves(robot.twist(T0 + step * STEP))
    robot.twists.wait_for(lambda raws: len(raws) > 5)  # nothing was shown since
    assert not moves(wire.decode_twist_stamped(robot.twists.messages[-1]))
    assert 'old' in node._loop.last.reason


def test_in_simulated_time_commands_keep_the_rate_of_the_simulation(ros, checkpoint):
    ros.add(SimulatorNode, real_time_factor=3.0, publish_instruction=True)
    ros.nodes[-1].begin()
    robot = Robot(ros)
    node = ros.add(
        PolicyNode,
        checkpoint=str(checkpoint),
        use_sim_time=True,
        watchdog_s=1.0,
        **{'gate.enabled': False},
    )
    assert node.bring_up()
    moving = robot.twists.wait_for(
        lambda raws: len(raws) > 20 and any(map(moves, map(wire.decode_twist_stamped, raws)))
    )
    assert moving
    stamps = robot.stamps()
    assert max(stamps) < 1e12  # simulated seconds, not the time since 1970
    assert np.median(np.diff(stamps)) == pytest.approx(1e8, rel=0.3)


def test_deactivating_ends_with_a_hold_and_then_silence(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    robot.say()
    for step in range(3):
        robot.show(T0 + step * STEP)
        robot.twist(T0 + step * STEP)
    assert ros.transition(NODE, 'deactivate')
    robot.twists.wait_for(lambda raws: len(raws) > 3)
    assert not moves(wire.decode_twist_stamped(robot.twists.messages[-1]))
    robot.show(T0 + 3 * STEP)
    ros.until(lambda: node._loop.buffer.complete_ts_ns() == T0 + 3 * STEP, 'the observation')
    assert ros.state(NODE) == 'inactive'  # whatever was to come would have come by now
    assert T0 + 3 * STEP not in robot.stamps()
    assert ros.transition(NODE, 'activate')
    robot.show(T0 + 4 * STEP)
    assert moves(robot.twist(T0 + 4 * STEP))


def test_a_decision_under_way_while_the_node_is_released_ends_quietly(
    ros, checkpoint, monkeypatch
):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    crashed = []
    monkeypatch.setattr(threading, 'excepthook', lambda args: crashed.append(args.exc_value))
    entered, gate = threading.Event(), threading.Event()
    loop, decide = node._loop, node._loop.pipeline.decide

    def slow(observation):
        entered.set()
        assert gate.wait(PATIENCE_S)
        return decide(observation)

    monkeypatch.setattr(loop.pipeline, 'decide', slow)
    robot.say()
    robot.show(T0)
    assert entered.wait(PATIENCE_S)
    releasing = threading.Thread(target=node.release)
    releasing.start()
    ros.until(lambda: node._loop is None, 'the release')
    gate.set()
    releasing.join(PATIENCE_S)
    assert crashed == []
    assert loop.causes.snapshot() == {}
    assert T0 not in robot.stamps()


def test_a_missing_checkpoint_is_named_and_configuring_can_be_repeated(ros, tmp_path: Path):
    node = ros.add(PolicyNode, checkpoint=str(tmp_path / 'nowhere'))
    assert not ros.transition(NODE, 'configure')
    assert ros.state(NODE) == 'unconfigured'
    assert 'nowhere' in node.last_error


def test_cleanup_frees_and_configure_works_again(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    for _ in range(2):
        assert ros.transition(NODE, 'deactivate')
        assert ros.transition(NODE, 'cleanup')
        assert ros.client.count_subscribers('front/image_raw') == 0
        assert node._loop is None
        assert ros.transition(NODE, 'configure')
        assert ros.transition(NODE, 'activate')
    robot.matched()
    robot.say()
    robot.show(T0)
    assert moves(robot.twist(T0))
