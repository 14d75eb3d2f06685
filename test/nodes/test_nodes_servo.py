"""servo_node over real topics: twists in, joint commands out, and always a reason."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from servoed_arm import Drives, moving, NODE, OPENING, serve, STATUS, TWIST
from servoing import HOME, tabletop_kinematics

from vla_alignment_ros import wire
from vla_alignment_ros.nodes import servo_loop
from vla_alignment_ros.nodes.expert_node import ExpertNode
from vla_alignment_ros.nodes.qos import latched
from vla_alignment_ros.nodes.servo_node import ServoNode
from vla_alignment_ros.nodes.simulator_node import SimulatorNode
from vla_alignment_ros.nodes.ticker import Ticker

SIDEWAYS = (0.0, 0.2, 0.0, 0.0, 0.0, 0.0)
ACCELERATION = 5.0 * 0.01 + 1e-9  # rad/s per period, the default


def status_of(ros) -> object:
    return ros.listen(f'{NODE}/status', STATUS, latched(), raw=False)


def said(inbox, text: str) -> object:
    """The first status whose message has the text, once it came."""
    found = inbox.wait_for(lambda messages: [m for m in messages if text in m.message])
    return found[0]


@pytest.mark.parametrize('output', ['joint_trajectory', 'joint_velocity'])
def test_twists_become_joint_commands_and_a_deactivated_arm_is_at_rest(ros, output):
    drives, node = serve(ros, output=output)
    drives.drive(SIDEWAYS, lambda: moving(drives))
    assert ros.transition(NODE, 'deactivate')
    count = len(drives.commands.messages)
    velocities = drives.velocities()
    assert not velocities[-1].any()  # the last thing said is a hold
    assert np.abs(np.diff(velocities, axis=0)).max() <= ACCELERATION
    drives.twist(SIDEWAYS)
    drives.say()
    assert ros.state(NODE) == 'inactive'  # what was published before has been heard by now
    assert len(drives.commands.messages) == count
    if output == 'joint_trajectory':
        sample = wire.decode_joint_trajectory(drives.commands.messages[-1])
        assert sample.names == drives.embodiment.joint_names
        assert sample.time_from_start_s == pytest.approx([0.01])
        assert sample.ts_ns == 0  # on arrival
        hand = tabletop_kinematics()
        way = hand(drives.positions()[-1])[0] - hand(HOME)[0]
        assert way[1] > 0.0
        assert np.abs(way[[0, 2]]).max() < 1e-3


def test_it_stops_by_itself_when_twists_end_and_says_why(ros):
    drives, _ = serve(ros, command_timeout_s=0.1)
    status = status_of(ros)
    drives.drive(SIDEWAYS, lambda: moving(drives))
    ros.until(lambda: not drives.velocities()[-1].any(), 'the standstill')
    assert said(status, 'hold: no twist for').level == b'\x01'
    count = len(drives.commands.messages)
    drives.commands.wait_for(lambda raws: len(raws) > count + 5)  # it goes on holding
    assert not drives.velocities()[count:].any()


@pytest.mark.parametrize(('timeout_s', 'warned'), [(0.1, True), (0.2, False)])
def test_a_time_out_shorter_than_two_commands_is_warned_of(ros, capfd, timeout_s, warned):
    node = ros.add(ServoNode, command_timeout_s=timeout_s)  # for a robot of 10 Hz
    assert node.bring_up()
    assert ('set 0.2 unless' in capfd.readouterr().err) is warned


def test_joints_are_taken_by_name_whatever_their_order(ros):
    drives = Drives(ros, 'joint_trajectory')
    drives.follows = False
    ros.add(ServoNode, state_timeout_s=10.0).bring_up()
    drives.matched()
    drives.say(('elsewhere', *reversed(drives.names)))
    drives.commands.wait_for(len)
    np.testing.assert_array_equal(drives.positions()[-1], HOME)


def test_without_a_joint_nothing_is_commanded_and_the_joint_is_named(ros):
    drives = Drives(ros, 'joint_trajectory')
    status = status_of(ros)
    node = ros.add(ServoNode, status_period_s=0.05)
    assert node.bring_up()
    drives.matched()
    drives.say(drives.names[1:])
    refused = 'refused: joint_states: WireError'
    found = status.wait_for(
        lambda messages: [m for m in messages if refused in {v.key for v in m.values}]
    )
    assert found[-1].message == 'hold: no joint states yet'
    assert not drives.commands.messages


def test_a_twist_in_an_unknown_frame_is_refused(ros):
    drives, _ = serve(ros, status_period_s=0.05)
    status = status_of(ros)
    drives.drive(SIDEWAYS, lambda: moving(drives))
    drives.twist(SIDEWAYS, 'map')
    said(status, "hold: the twist is in frame 'map': send it in 'base_link', or in 'tool0'")
    ros.until(lambda: not drives.velocities()[-1].any(), 'the standstill')


def test_drives_that_do_not_follow_are_left_where_they_are(ros):
    drives, _ = serve(ros)
    status = status_of(ros)
    drives.follows = False

    def pushed() -> bool:
        drives.say()
        return any('does not follow' in m.message for m in list(status.messages))

    drives.drive(SIDEWAYS, pushed)

    def back() -> bool:
        drives.say()
        return np.array_equal(drives.positions()[-1], HOME)

    ros.until(back, 'a command to stay')


def test_silent_joint_states_are_an_error_after_a_while(ros, monkeypatch):
    monkeypatch.setattr(servo_loop, 'SILENT_ERROR_S', 0.3)
    drives, _ = serve(ros, state_timeout_s=0.05, status_period_s=0.05)
    status = status_of(ros)
    drives.follows = False
    level = status.wait_for(lambda m: [s for s in m if s.level == b'\x02'])[-1]
    assert level.message.startswith('hold: joint states are 0.')


def test_the_gripper_goes_to_its_own_controller_no_faster_than_allowed(ros):
    drives, _ = serve(ros)
    drives.open(0.0)
    drives.fingers.wait_for(lambda raws: wire.decode_float64_multi_array(raws[-1])[0] == 0.0)
    went = [wire.decode_float64_multi_array(raw)[0] for raw in drives.fingers.messages]
    assert max(np.abs(np.diff([0.04, *went]))) <= 0.04 * 20.0 * 0.01 + 1e-9


def test_the_gripper_can_be_the_last_joint_of_the_arms_controller(ros):
    drives, _ = serve(ros, gripper='with_arm')
    drives.open(0.5)

    def found(raws):
        sample = wire.decode_joint_trajectory(raws[-1])
        assert sample.names == drives.names
        return sample.positions[0, 7] == pytest.approx(0.02)

    drives.commands.wait_for(found)
    assert not drives.fingers.messages


@pytest.mark.parametrize(
    'parameters, reason',
    [
        ({'embodiment': 'generic_jtc'}, 'commands joint_position: to servo takes'),
        ({'embodiment': 'franka_servo'}, 'names no robot description'),
        ({'output': 'joint_velocity', 'gripper': 'with_arm'}, 'use own or none'),
        ({'acceleration': [1.0, 2.0]}, 'one value, or one for each'),
    ],
)
def test_what_cannot_be_servoed_is_refused_with_the_reason(ros, parameters, reason):
    node = ros.add(ServoNode, **parameters)
    assert not ros.transition(NODE, 'configure')
    assert reason in node.last_error
    assert ros.state(NODE) == 'unconfigured'


def test_it_can_be_cleaned_up_and_configured_again(ros):
    drives, node = serve(ros)
    for name in ('deactivate', 'cleanup', 'configure', 'activate'):
        assert ros.transition(NODE, name), name
    drives.matched()
    count = len(drives.commands.messages)
    drives.say()
    drives.commands.wait_for(lambda raws: len(raws) > count)


def test_a_ticker_leaves_out_what_it_missed_and_is_never_early():
    begun, enough = [], threading.Event()
    busy = threading.Event()  # never set

    def work() -> None:
        begun.append(time.monotonic())
        if len(begun) == 3:
            busy.wait(0.055)
        if len(begun) == 12:
            enough.set()

    ticker = Ticker(0.01, work)
    assert enough.wait(30.0)
    ticker.close()
    count = len(begun)
    assert np.diff(begun).min() >= 0.01 - 1e-6
    assert ticker.missed >= 4
    assert len(begun) == count


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize('output', ['joint_trajectory', 'joint_velocity', 'joint_position'])
def test_the_expert_solves_an_episode_through_servo_and_joint_controllers(ros, output):
    simulator = ros.add(
        SimulatorNode,
        command_interface=output,
        real_time_factor=2.0,
        reset_on_start=False,
        split='seen',
        seed=3,
    )
    success = ros.listen('simulator_node/success', 'std_msgs/msg/Bool', raw=False)
    servo = ros.add(ServoNode, output=output, use_sim_time=True)
    assert servo.bring_up(), servo.last_error
    ros.add(ExpertNode)
    for topic in (TWIST, OPENING):
        ros.until(lambda topic=topic: ros.client.count_publishers(topic) == 1, topic)
    for topic in simulator._host.command_topics:
        ros.until(lambda topic=topic: ros.client.count_publishers(topic) == 1, topic)
    assert ros.trigger('simulator_node/reset').success
    success.wait_for(lambda messages: any(m.data for m in messages), 240.0)
    assert not simulator._causes.snapshot().keys() - {'overrun'}
