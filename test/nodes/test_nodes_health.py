"""What the diagnostics say is true, and their level says whether a person has to look."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
import pytest
from rclpy.parameter import Parameter
from tabletop_robot import NODE, start, STATUS, STEP, T0

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes import health
from vla_alignment_ros.nodes.health import Arrivals
from vla_alignment_ros.nodes.policy_node import PolicyNode
from vla_alignment_ros.nodes.qos import latched
from vla_alignment_ros.policy.policy import pick_device

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
FRONT, JOINTS = 'front/image_raw', 'joint_states'
KEYS = {  # that people and the evaluation read
    'state', 'reason', 'instruction', 'vl_score', 'action_score', 'margin', 'gate', 'gate_go',
    'gate_hold', 'needs_help', 'decisions', 'decision_p50_ms', 'decision_p99_ms',
    'answer_p50_ms', 'answer_p99_ms', 'age_front_s', 'age_wrist_s', 'age_joint_states_s',
    'rate_front_hz', 'rate_wrist_hz', 'rate_joint_states_hz', 'checkpoint', 'revision',
    'embodiment', 'device', 'threads', 'exchanges', 'pictures',
}  # fmt: skip


def picture(ts_ns: int) -> bytes:
    return wire.encode_image(np.zeros((2, 2, 3), np.uint8), ts_ns, 'front')


@pytest.fixture
def arrivals() -> Arrivals:
    return Arrivals(Embodiment.load('tabletop'))


def test_a_rate_is_that_of_the_last_seconds_and_falls_in_silence(arrivals):
    for i in range(41):
        arrivals.came(JOINTS, b'', 100.0 + i * 0.05)
    assert arrivals.key_values(102.0)['rate_joint_states_hz'] == '20.0'
    assert arrivals.key_values(104.0)['rate_joint_states_hz'] == '10.1'
    assert arrivals.key_values(120.0)['rate_joint_states_hz'] == '0.0'
    assert arrivals.key_values(102.0)['rate_front_hz'] == '0.0'


def test_frames_that_a_later_one_replaced_are_counted_exactly(arrivals):
    for ts_ns in (1, 2, 3, 3, 2, 4):  # one comes twice, one too late
        arrivals.came(FRONT, picture(ts_ns), 0.0)
    arrivals.used({'front': 1})
    assert 'superseded: front' not in arrivals.key_values(0.0)
    arrivals.used({'front': 4})
    assert arrivals.key_values(0.0)['superseded: front'] == '2'
    arrivals.used({'front': 4})
    assert arrivals.key_values(0.0)['superseded: front'] == '2'


def test_a_clock_that_is_set_back_and_a_new_start_supersede_nothing(arrivals):
    arrivals.came(FRONT, picture(1_000), 0.0)
    arrivals.used({'front': 5})
    arrivals.start()
    arrivals.came(FRONT, picture(10), 0.0)
    arrivals.used({'front': 10})
    arrivals.came(FRONT, b'broken', 0.0)
    assert 'superseded: front' not in arrivals.key_values(0.0)


def told(node) -> DiagnosticStatus:
    """What the node says of itself now."""
    return node._publish_status()


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


def test_the_status_holds_all_there_is_to_know(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    inbox = ros.listen(f'{NODE}/status', STATUS, latched(), raw=False)
    robot.say()
    for step in range(3):
        robot.show(T0 + step * STEP)
        robot.twist(T0 + step * STEP)
    ros.until(lambda: node._loop.decisions == 3, 'the end of the decision')
    node._publish_status()
    status = inbox.wait_for(
        lambda messages: messages and values(messages[-1])['decisions'] == '3' and messages[-1]
    )
    found = values(status)
    assert KEYS <= set(found), KEYS - set(found)
    assert found['checkpoint'] == str(checkpoint)
    assert (found['device'], found['threads'], found['gate']) == (str(pick_device()), '1', 'go')
    assert status.hardware_id == 'tabletop'
    assert (status.level, status.message) == (OK, 'go')


def test_a_node_that_could_not_be_configured_says_error_and_why(ros, tmp_path, checkpoint):
    node = ros.add(PolicyNode, checkpoint=str(tmp_path / 'nowhere'), threads=1)
    assert told(node).level == OK
    assert not ros.transition(NODE, 'configure')
    status = told(node)
    assert status.level == ERROR and 'nowhere' in status.message


def test_waiting_for_an_instruction_is_a_warning_however_long(ros, checkpoint, monkeypatch):
    monkeypatch.setattr(health, 'SILENT_ERROR_S', 0.0)
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    ros.until(lambda: (robot.show(T0), not node._loop.buffer.missing()[:-1])[1], 'the sensors')
    assert node._loop.buffer.missing() == ('instruction',)
    assert told(node).level == WARN


@pytest.mark.parametrize('silent', ['front', 'joint_states'])
def test_a_sensor_that_stays_silent_is_an_error_that_names_it(ros, checkpoint, silent):
    robot, node = start(ros, checkpoint, watchdog_s=0.2)
    robot.say()
    ros.until(lambda: (robot.show(T0), not node._loop.buffer.missing())[1], 'the sensors')

    def alarmed() -> bool:
        robot.show(T0, but=(silent,))
        return told(node).level == ERROR

    ros.until(alarmed, 'an error')
    assert f'{silent} is' in told(node).message


def test_asking_for_help_is_an_error_in_words(ros, checkpoint):
    robot, node = start(
        ros,
        checkpoint,
        act_on_arrival=True,
        **{'gate.enabled': True, 'gate.go': 1.0, 'gate.help_s': 1.0},
    )
    robot.say()
    for step in range(11):  # the last stamp lies 1 s behind the first
        robot.show(T0 + step * STEP)
        robot.twist(T0 + step * STEP)
    ros.until(lambda: node._loop.decisions == 11, 'the last decision')
    status = told(node)
    assert status.level == ERROR
    assert 'please help' in status.message
    assert values(status)['needs_help']


def test_a_refused_reload_is_counted_by_its_cause(ros, checkpoint, tmp_path):
    _, node = start(ros, checkpoint)
    missing = Parameter('checkpoint', value=str(tmp_path / 'nowhere'))
    for _ in range(2):
        assert not node.set_parameters([missing])[0].successful
    assert values(told(node))['reload refused: CheckpointError'] == '2'
    assert values(told(node))['exchanges'] == '0'
