"""Nodes as processes: they find each other, act, and end cleanly when asked to."""

from __future__ import annotations

import shutil
import signal

from document_commands import commands, ROOT
from node_messages import listen, moves
from node_processes import EXIT_S, START_S
import numpy as np
import pytest
from servoing import tabletop_kinematics
import yaml

from vla_alignment_ros import wire
from vla_alignment_ros.cli.vla_demo import main as vla_demo
from vla_alignment_ros.control.joint_commands import COMMAND_TOPICS
from vla_alignment_ros.nodes.qos import message_class, reliable, subscribe_raw
from vla_alignment_ros.resources import package_path


@pytest.mark.timeout(400)
def test_nodes_run_and_end_with_exit_code_zero(processes, client, checkpoint, tmp_path):
    processes.start('simulator_node', lockstep=True, publish_instruction=True, split='seen')
    processes.start('expert_node')
    processes.start('training_node', folder=str(tmp_path / 'demos'))
    processes.start('policy_node', checkpoint=str(checkpoint))
    for node in ('training_node', 'policy_node'):
        client.configure(node, timeout_s=START_S)
        client.activate(node)
    done: list[bytes] = []
    subscribe_raw(
        client.node, 'simulator_node/success', 'std_msgs/msg/Bool', done.append, reliable()
    )
    client.until(lambda: done, 'the simulator', START_S)
    numbers = dict.fromkeys(list(processes.running), signal.SIGINT)
    numbers['training_node'] = signal.SIGTERM
    for name, number in numbers.items():
        code = processes.end(name, number)
        assert code == 0, f'{name} ended with {code}:\n{processes.log(name)}'


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    'number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_an_interrupted_policy_leaves_the_arm_held(processes, client, checkpoint, number):
    twists = listen(client, 'servo/delta_twist_cmds', 'geometry_msgs/msg/TwistStamped')
    processes.start(
        'policy_node',
        checkpoint=str(checkpoint),
        autostart=True,
        act_on_arrival=True,
        **{'gate.enabled': False},
    )
    processes.start('simulator_node', lockstep=True, publish_instruction=True)
    client.until(lambda: len(twists) > 3 and moves(twists[-1]), 'motion', START_S)
    processes.running['policy_node'].send_signal(number)
    client_check, client._check = client._check, lambda: None
    client.until(lambda: not moves(twists[-1]), 'the hold')
    client._check = client_check
    assert processes.running.pop('policy_node').wait(EXIT_S) == 0
    assert not moves(twists[-1])


@pytest.mark.timeout(600)
def test_whoever_is_killed_the_arm_comes_to_rest(processes, client, checkpoint):
    twists = listen(client, 'servo/delta_twist_cmds', 'geometry_msgs/msg/TwistStamped')
    joints = listen(client, 'joint_states', 'sensor_msgs/msg/JointState')
    reasons: list[str] = []
    client.on_values('policy_node/status', lambda values: reasons.append(values.get('reason', '')))

    def speed(raw: bytes) -> float:
        return float(np.abs(wire.decode_joint_state(raw).velocity[:7]).max())  # rad/s

    def start_policy() -> None:
        del twists[:]
        processes.start(
            'policy_node',
            checkpoint=str(checkpoint),
            autostart=True,
            use_sim_time=True,
            status_period_s=0.1,
            **{'gate.enabled': False},
        )

    processes.start('simulator_node', publish_instruction=True)
    start_policy()
    client.until(lambda: joints and speed(joints[-1]) > 0.1, 'motion', START_S)
    processes.kill('policy_node')
    client.until(lambda: all(speed(raw) < 0.02 for raw in joints[-5:]), 'the standstill')
    start_policy()  # somebody, or a supervisor, starts it again
    client.until(lambda: twists and moves(twists[-1]), 'motion', START_S)
    processes.kill('simulator_node')
    client.until(lambda: 'time has stood still' in reasons[-1], 'the reason')
    count = len(twists)
    client.until(lambda: len(twists) > count + 2, 'holds')
    assert not any(moves(raw) for raw in twists[count:])
    assert processes.end('policy_node', signal.SIGTERM) == 0


@pytest.mark.timeout(120)
def test_a_parameter_that_is_not_allowed_ends_the_process_with_the_reason(processes):
    processes.start('simulator_node', split='nowhere')
    assert processes.running.pop('simulator_node').wait(EXIT_S) == 1
    assert 'allowed: train, val, seen' in processes.log('simulator_node')


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize('output', ['joint_trajectory', 'joint_velocity'])
def test_the_shipped_policy_acts_through_a_servo_and_joint_controllers(processes, client, output):
    processes.start(
        'simulator_node', command_interface=output, split='seen', publish_instruction=True,
        seed=4001, reset_on_start=False,
        real_time_factor=0.2,  # a busy machine needs longer to decide than a robot gives it
    )  # fmt: skip
    processes.start('servo_node', output=output, use_sim_time=True, autostart=True)
    processes.start(
        'policy_node',
        checkpoint=str(package_path('checkpoints', 'tabletop')),
        use_sim_time=True,
        autostart=True,
    )
    success: list[bytes] = []
    subscribe_raw(
        client.node, 'simulator_node/success', 'std_msgs/msg/Bool', success.append, reliable()
    )
    for topic in ('servo/delta_twist_cmds', COMMAND_TOPICS[output][0]):
        client.until(
            lambda topic=topic: client.node.count_publishers(topic)
            and client.node.count_subscribers(topic),
            topic,
            START_S,
        )
    client.trigger('simulator_node/reset')
    client.until(lambda: any(map(wire.decode_bool, success)), 'the success', 300.0)


def _fill(message: object, fields: dict) -> None:
    for key, value in fields.items():
        if isinstance(value, dict):
            _fill(getattr(message, key), value)
        else:
            setattr(message, key, value)


@pytest.mark.timeout(600)
def test_the_page_about_ones_own_arm_leads_to_its_first_motion(
    processes, client, tmp_path, monkeypatch, capsys
):
    """Every command of the page is run, but for xacro, which is not here."""
    monkeypatch.chdir(tmp_path)
    hand = tabletop_kinematics()
    joints = listen(client, 'joint_states', 'sensor_msgs/msg/JointState')
    status: list[str] = []
    client.node.create_subscription(
        message_class('diagnostic_msgs/msg/DiagnosticStatus'), 'servo_node/status',
        lambda message: status.append(message.message), reliable(),
    )  # fmt: skip

    def positions() -> dict[str, float]:
        sample = wire.decode_joint_state(joints[-1])
        return dict(zip(sample.names, sample.position))

    def pose() -> np.ndarray:
        at = positions()
        return hand(np.array([at[joint] for joint in hand.joint_names]))[0]

    def publish(topic: str, kind: str, fields: str) -> None:
        message = message_class(kind)()
        _fill(message, yaml.safe_load(fields))
        output = client.node.create_publisher(type(message), topic, reliable())
        client.until(lambda: joints and output.get_subscription_count(), topic)
        if topic == 'gripper/command':
            output.publish(message)
            client.until(lambda: positions()['finger_joint'] < 0.01, 'the closed gripper')
            return
        start = pose()

        def risen() -> bool:
            output.publish(message)
            return pose()[2] > start[2] + 0.03

        client.until(risen, 'the first motion')
        assert np.abs(pose() - start)[:2].max() < 0.005  # straight up
        client.until(lambda: 'hold: no twist for' in status[-1], 'the standstill')

    done = []
    for words in commands(ROOT / 'docs' / 'bring_your_own_arm.md'):
        match words:
            case ['cp', source, target]:
                shutil.copy(package_path(*source.split('/')), target)
            case ['ros2', 'run', 'vla_alignment_ros', node, '--ros-args', *given]:
                settings = dict(word.split(':=') for word in given if word != '-p')
                processes.start(node, **settings)
            case ['vla_demo', *arguments]:
                while vla_demo([*arguments, '--seconds', '1']):
                    capsys.readouterr()
                    processes.check()  # whoever comes late is there the next time
                said = capsys.readouterr().out
                assert said.splitlines()[-1] == 'tabletop: it fits'
            case ['ros2', 'topic', 'pub', *_, topic, kind, fields]:
                publish(topic, kind, fields)
            case ['xacro', *_]:
                pass
            case _:
                raise AssertionError(f'the page has a command that nobody runs: {words}')
        done.append(words[0])
    assert done == ['xacro', 'cp', 'ros2', 'ros2', 'vla_demo', 'ros2', 'ros2']
