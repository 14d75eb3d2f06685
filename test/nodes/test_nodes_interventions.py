"""A person takes the arm over while a policy serves it, and gives it back."""

from __future__ import annotations

import numpy as np
import pytest
from scripted_policy import PATIENCE_S
from tabletop_robot import GRIPPER, moves, NODE, start, STATUS, STEP, T0, TWIST

from vla_alignment_ros import wire
from vla_alignment_ros.errors import ControlError
from vla_alignment_ros.nodes.qos import latched

BACK = np.array([-0.03, 0, 0, 0, 0, 0, 1.0])
HALF_S = 500_000_000


@pytest.fixture
def bench(make_bench, steady):
    """Served at the control rate; the test is its clock, and moves the steady one too."""
    bench = make_bench(on_arrival=False, watchdog_s=0.0)
    bench.loop.start()
    bench.say()
    return bench


def states(bench) -> list[str]:
    return [command.state for command in bench.commands]


def test_a_person_takes_over_at_the_next_tick_and_the_policy_goes_on_from_a_fresh_decision(
    bench, steady
):
    bench.policy.horizon = 50
    for step in range(16):
        bench.go_on(T0 + step * STEP)  # scored all the time
        if 2 <= step < 5:
            bench.loop.interventions.take(BACK)
        if step == 7:
            assert bench.loop.key_values()['driver'] == 'person'
        bench.loop.tick(T0 + step * STEP)
        steady.ns += STEP
    # the last command was taken at step 4, and counts for 0.5 s; what was decided until the
    # person was seen to have let go does not count
    assert states(bench) == 2 * ['go'] + 8 * ['driven'] + ['hold'] + 5 * ['go']
    assert bench.commands[10].reason == 'no decision yet since a person drove'
    assert bench.commands[9].action[0] == pytest.approx(-0.03)
    assert bench.commands[-1].action[0] == pytest.approx(0.02)
    assert bench.handed == [False, True, False]
    values = bench.loop.key_values()
    assert (values['driver'], values['take_overs'], values['driven_s']) == ('policy', '1', '0.8')


def test_a_person_drives_though_sensors_are_silent_and_decisions_fail(bench, steady):
    bench.go_on(T0)
    bench.loop.tick(T0)
    broken = wire.encode_image(np.zeros((128, 128, 3), np.uint8), T0 + STEP, 'front')[:-1000]
    bench.show(T0 + STEP, but=('front',))
    bench.loop.interventions.take(BACK)
    bench.loop.tick(T0 + STEP)
    bench.loop.push('front/image_raw', broken, T0 + STEP)
    bench.until(lambda: bench.loop.causes.snapshot() == {'WireError': 1})
    for step in range(2, 9):  # joint states are too old from 0.2 s on, frames from 0.3 s
        steady.ns += STEP // 2
        bench.loop.interventions.take(BACK)
        bench.loop.tick(T0 + step * STEP)
        bench.loop.watch(T0 + step * STEP)
    assert states(bench) == ['go'] + 8 * ['driven']
    steady.ns += HALF_S + 1
    bench.loop.tick(T0 + 9 * STEP)
    assert 'front is 0.85 s old' in bench.commands[-1].reason


def test_on_arrival_a_person_does_not_wait_for_the_policy(make_bench, steady):
    bench = make_bench()
    bench.loop.start()
    bench.say()
    bench.go_on(T0)
    bench.policy.free.clear()
    bench.loop.interventions.take(BACK)
    bench.show(T0 + STEP)
    bench.until(lambda: len(bench.commands) == 2)
    assert states(bench) == ['go', 'driven']
    bench.policy.free.set()
    bench.until(lambda: len(bench.verdicts) == 2)
    bench.go_on(T0 + 2 * STEP)
    assert states(bench) == ['go', 'driven', 'driven']  # one for each observation


def test_on_arrival_a_decision_under_way_is_answered_by_the_person_who_came(make_bench, steady):
    bench = make_bench()
    bench.loop.start()
    bench.say()
    bench.policy.free.clear()
    bench.show(T0)
    assert bench.policy.entered.wait(PATIENCE_S)
    bench.loop.interventions.take(BACK)
    bench.policy.free.set()
    bench.until(lambda: bench.verdicts)
    assert states(bench) == ['driven']
    steady.ns += HALF_S + 1
    bench.go_on(T0 + STEP)  # begun after the person let go: it counts at once
    assert states(bench) == ['driven', 'go']


def test_on_arrival_a_person_can_move_an_arm_whose_sensors_fell_silent(make_bench, steady):
    bench = make_bench(watchdog_s=0.0)
    bench.loop.start()
    bench.say()
    bench.go_on(T0)
    steady.ns += 2_000_000_001
    bench.loop.watch(T0 + 20 * STEP)
    bench.loop.interventions.take(BACK)
    for step in range(21, 24):
        bench.loop.watch(T0 + step * STEP)
    steady.ns += HALF_S + 1
    bench.loop.watch(T0 + 24 * STEP)
    assert states(bench) == ['go', 'hold', 'driven', 'driven', 'driven', 'hold']
    assert bench.handed == [False, True, False]


def test_on_arrival_a_person_is_seen_to_let_go_although_nothing_arrives(make_bench, steady):
    bench = make_bench(watchdog_s=0.0)
    bench.loop.start()
    bench.say()
    bench.loop.interventions.take(BACK)
    bench.go_on(T0)
    steady.ns += HALF_S + 1
    bench.loop.watch(T0 + STEP)  # not silent for long enough to hold
    assert bench.handed == [False, True, False]
    assert states(bench) == ['driven']


def test_a_stop_brakes_an_arm_that_a_person_drives_and_they_have_let_go(bench):
    bench.loop.interventions.take(BACK)
    for step in range(4):
        bench.loop.tick(T0 + step * STEP)
    bench.loop.stop(T0 + 4 * STEP)
    assert bench.commands[-1].action[0] == 0.0
    assert bench.handed == [False, True, False]
    count = len(bench.commands)
    bench.loop.interventions.take(BACK)  # nobody listens any more
    bench.loop.tick(T0 + 5 * STEP)
    bench.loop.start()
    bench.loop.tick(T0 + 6 * STEP)
    assert [c.state for c in bench.commands[count:]] == ['hold']


def test_a_person_whose_command_cannot_be_sent_is_answered_with_a_hold(bench):
    bench.loop.interventions.take(BACK)
    bench.loop.tick(T0)
    bench.broken = [ControlError('no such topic')]
    bench.loop.tick(T0 + STEP)
    assert states(bench) == ['driven', 'hold']


def person(ros):
    """A person's twist and gripper."""
    twist = ros.speak(f'teleop/{TWIST}', 'geometry_msgs/msg/TwistStamped')
    gripper = ros.speak(f'teleop/{GRIPPER}', 'std_msgs/msg/Float64')
    for output in (twist, gripper):
        ros.matched(output)
    return twist, gripper


def twist_of(vx: float, frame: str = 'base_link') -> bytes:
    return wire.encode_twist_stamped(7, frame, np.array([vx, 0, 0]), np.zeros(3))


def test_a_person_steers_on_the_prefixed_topics_and_leaves_the_gripper_alone(ros, checkpoint):
    robot, node = start(
        ros, checkpoint, act_on_arrival=True, intervention_timeout_s=PATIENCE_S)
    flags = ros.listen('intervention', 'std_msgs/msg/Bool', latched(), raw=False)
    twist, gripper = person(ros)
    robot.say()
    for step in range(2):
        robot.show(T0 + step * STEP)
        assert moves(robot.twist(T0 + step * STEP))
    held = wire.decode_float64(robot.grippers.wait_for(lambda raws: len(raws) == 2 and raws)[-1])
    assert held < 0.5
    flags.wait_for(lambda messages: [m.data for m in messages] == [False])
    for bad in (twist_of(float('nan')), twist_of(0.1, 'tool0'), b'\0\1\0\0' + bytes(12)):
        twist.publish(bad)
    refused = node._inputs.intervention.causes.snapshot
    ros.until(lambda: sum(refused().values()) == 3, 'three refusals')
    assert not node._loop.interventions.drives()

    twist.publish(twist_of(-0.2))
    ros.until(node._loop.interventions.drives, 'a person')
    robot.show(T0 + 2 * STEP)
    sent = robot.twist(T0 + 2 * STEP)
    assert sent.linear[0] == pytest.approx(-0.2) and not np.any(sent.linear[1:])
    robot.grippers.wait_for(lambda raws: len(raws) == 3)
    assert wire.decode_float64(robot.grippers.messages[-1]) == pytest.approx(held, abs=1e-6)
    assert [m.data for m in flags.messages] == [False, True]
    statuses = ros.listen(f'{NODE}/status', STATUS, latched(), raw=False)
    node._publish_status()
    told = statuses.wait_for(lambda messages: [m for m in messages if m.message == 'driven'])
    status = told[-1]
    values = {v.key: v.value for v in status.values}
    assert (status.message, status.level) == ('driven', b'\0')
    assert (values['driver'], values['take_overs']) == ('person', '1')
    assert values['intervention refused: ControlError'] == '2'

    gripper.publish(wire.encode_float64(1.0))
    ros.until(lambda: node._inputs.intervention._gripper_s > 0, 'the gripper')
    twist.publish(twist_of(5.0))  # faster than it may go
    ros.until(lambda: node._loop.interventions.person._newest[1][0] > 0, 'the other way')
    robot.show(T0 + 3 * STEP)
    limits = robot.embodiment.action
    change = robot.twist(T0 + 3 * STEP).linear[0] + 0.2
    assert change == pytest.approx(limits.max_acceleration[0] / 10)
    robot.grippers.wait_for(lambda raws: len(raws) == 4)
    assert wire.decode_float64(robot.grippers.messages[-1]) == 1.0

    assert ros.transition(NODE, 'deactivate')
    flags.wait_for(lambda messages: [m.data for m in messages] == [False, True, False])


def test_nobody_can_take_over_where_the_prefix_is_empty(ros, checkpoint):
    _, node = start(ros, checkpoint, act_on_arrival=True, intervention_prefix='')
    assert node._inputs.intervention is None
    assert ros.client.count_subscribers(f'teleop/{TWIST}') == 0
    assert ros.client.count_subscribers(TWIST) == 1  # the test's own
