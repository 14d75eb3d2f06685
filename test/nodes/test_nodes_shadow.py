"""policy_node as a judge: it scores another policy and never moves, or passes on what fits."""

from __future__ import annotations

import numpy as np
import pytest
from tabletop_robot import GRIPPER, moves, NODE, start, STATUS, STEP, T0, TWIST

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import encode_chunk
from vla_alignment_ros.nodes.policy_node import CHUNK_TOPIC, PolicyNode, SCORE_TOPIC, SCORES
from vla_alignment_ros.observation import ActionChunk


class Other:
    """Another policy, on the input topics of the node."""

    def __init__(self, ros, embodiment) -> None:
        self.embodiment = embodiment
        kinds = {
            'action_chunk': 'trajectory_msgs/msg/JointTrajectory',
            'twist': 'geometry_msgs/msg/TwistStamped',
            'gripper': 'std_msgs/msg/Float64',
        }
        self.outputs = {n: ros.speak(f'{NODE}/input/{n}', kind) for n, kind in kinds.items()}
        for output in self.outputs.values():
            ros.matched(output)

    def plan(self, ts_ns: int, dx: float = 0.01) -> None:
        rows = np.tile(np.float32([dx, 0, 0, 0, 0, 0, 1]), (4, 1))
        chunk = ActionChunk(ts_ns, rows, self.embodiment.rate_hz)
        self.outputs['action_chunk'].publish(encode_chunk(self.embodiment, chunk))

    def steer(self, ts_ns: int, vx: float = 0.1) -> None:
        self.outputs['gripper'].publish(wire.encode_float64(1.0))
        frame = self.embodiment.action.frame
        self.outputs['twist'].publish(
            wire.encode_twist_stamped(ts_ns, frame, np.array([vx, 0, 0]), np.zeros(3))
        )


def judging(ros, checkpoint, mode, **parameters):
    """A robot, a node that judges, and the policy that is judged."""
    robot, node = start(ros, checkpoint, mode=mode, act_on_arrival=True, **parameters)
    return robot, node, Other(ros, robot.embodiment)


def knows(ros, node, ts_ns):
    """Wait until the node has a plan for that moment."""
    ros.until(lambda: node._serving.other.ahead(ts_ns) is not None, 'the plan')


def test_a_shadow_scores_and_has_no_way_to_command(ros, checkpoint):
    robot, node, other = judging(ros, checkpoint, 'shadow')
    scores = ros.listen(NODE + SCORE_TOPIC[1:], 'std_msgs/msg/Float64MultiArray', raw=False)
    decisions = ros.listen(f'{NODE}/decision', STATUS, raw=False)
    for topic in (NODE + SCORE_TOPIC[1:], f'{NODE}/decision'):
        ros.until(lambda topic=topic: ros.client.count_publishers(topic) == 1, topic)
    published = {name for name, _ in node.get_publisher_names_and_types_by_node(NODE, '/')}
    assert not published & {f'/{TWIST}', f'/{GRIPPER}', f'/{NODE}{CHUNK_TOPIC[1:]}'}
    robot.say()
    other.plan(T0)
    knows(ros, node, T0)
    robot.show(T0)
    first = scores.wait_for(lambda messages: messages and messages[-1])
    assert tuple(d.label for d in first.layout.dim) == SCORES
    other.plan(T0 + STEP, dx=-0.04)
    knows(ros, node, T0 + 4 * STEP)
    robot.show(T0 + STEP)
    second = scores.wait_for(lambda messages: len(messages) == 2 and messages[-1])
    assert second.data[1] != first.data[1]  # other actions, another score
    assert decisions.wait_for(lambda messages: len(messages) == 2)
    assert ros.transition(NODE, 'deactivate')  # not even a last word
    assert ros.client.count_publishers(TWIST) == ros.client.count_publishers(GRIPPER) == 0
    assert not robot.twists.messages and not robot.grippers.messages


def test_inline_passes_on_what_the_other_wants_within_the_limits(ros, checkpoint):
    robot, node, other = judging(ros, checkpoint, 'inline')
    robot.say()
    robot.show(T0)
    assert not moves(robot.twist(T0))  # nobody wants anything
    assert 'says nothing' in node._loop.last.reason
    other.plan(T0 + STEP, dx=3.0)
    knows(ros, node, T0 + STEP)
    robot.show(T0 + STEP)
    sent = robot.twist(T0 + STEP)
    limit = robot.embodiment.action.max_velocity[0]
    assert 0.0 < sent.linear[0] <= limit + 1e-6
    assert not np.any(sent.linear[1:]) and not np.any(sent.angular)
    robot.show(T0 + 20 * STEP)  # long after the plan has ended
    robot.twist(T0 + 20 * STEP)
    assert node._loop.last.state == 'hold'
    robot.show(T0 + 30 * STEP)
    assert not moves(robot.twist(T0 + 30 * STEP))


def test_inline_holds_whatever_the_other_wants_where_the_score_is_low(ros, checkpoint):
    robot, node, other = judging(
        ros, checkpoint, 'inline', **{'gate.enabled': True, 'gate.go': 1.0, 'gate.hold': 1.0}
    )
    robot.say()
    for step in range(3):
        other.plan(T0 + step * STEP)
        knows(ros, node, T0 + (step + 3) * STEP)
        robot.show(T0 + step * STEP)
        assert not moves(robot.twist(T0 + step * STEP))
    assert node._loop.last.state == 'hold'


def test_inline_takes_a_stream_of_commands_and_stops_with_it(ros, checkpoint):
    robot, node, other = judging(ros, checkpoint, 'inline')
    robot.say()
    robot.show(T0)
    robot.twist(T0)
    other.steer(T0 + STEP)
    taken = node._serving.other.newest
    ros.until(lambda: taken(T0 + STEP, 0.0) is not None, 'the command')
    robot.show(T0 + STEP)
    assert robot.twist(T0 + STEP).linear[0] == pytest.approx(0.1, abs=1e-6)
    robot.show(T0 + 10 * STEP)  # nothing was said since
    robot.twist(T0 + 10 * STEP)
    assert node._loop.last.state == 'hold'


def test_what_is_no_plan_is_counted_and_changes_nothing(ros, checkpoint):
    robot, node, other = judging(ros, checkpoint, 'inline')
    other.plan(T0)
    knows(ros, node, T0)
    other.outputs['action_chunk'].publish(b'\0\1\0\0' + bytes(8))
    other.plan(T0 + STEP, dx=float('nan'))
    ros.until(lambda: sum(node._inputs.other.causes.snapshot().values()) == 2, 'two refusals')
    assert node._serving.other.ahead(T0) is not None
    assert node._serving.other.ahead(T0 + 4 * STEP) is None


def test_another_policy_cannot_go_on_from_our_plan(ros, checkpoint):
    node = ros.add(PolicyNode, checkpoint=str(checkpoint), mode='inline', execution='realtime')
    assert not node.bring_up()
    assert 'realtime' in node.last_error


def test_after_cleanup_the_inputs_are_gone(ros, checkpoint):
    robot, node, other = judging(ros, checkpoint, 'shadow')
    for name in ('deactivate', 'cleanup'):
        assert ros.transition(NODE, name)
    for name in other.outputs:
        topic = f'{NODE}/input/{name}'
        ros.until(lambda topic=topic: ros.client.count_subscribers(topic) == 0, topic)
