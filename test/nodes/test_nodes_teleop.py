"""A person at a gamepad, alone with the arm and in place of a policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tabletop_robot import GRIPPER, moves, PATIENCE_S, start, STEP, T0, TWIST

from vla_alignment_ros import wire
from vla_alignment_ros.control.pads import Pad
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.episode import read_episode
from vla_alignment_ros.nodes.qos import latched
from vla_alignment_ros.nodes.simulator_node import SimulatorNode
from vla_alignment_ros.nodes.teleop_node import TeleopNode
from vla_alignment_ros.nodes.training_node import TrainingNode
from vla_alignment_ros.nodes.truth import TruthView
from vla_alignment_ros.sim.expert import Expert

JOY = 'sensor_msgs/msg/Joy'
PAD = Pad.load('xbox')
TOP = np.array([0.5] * 3 + [2.5] * 3) / 10  # m and rad per control step at full deflection
HOLDING = {PAD.deadman}


def joy(axes: dict[int, float] = {}, pressed: set[int] = frozenset()) -> bytes:  # noqa: B006
    sticks, buttons = np.zeros(8, np.float32), np.zeros(11, np.int32)
    for number, value in axes.items():
        sticks[number] = value
    buttons[list(pressed)] = 1
    header = wire.header(0, '')
    return wire.encode(wire.make(JOY, header=header, axes=sticks, buttons=buttons))


class Person:
    """Whoever holds the pad of a node; what they do has arrived when it is done."""

    def __init__(self, ros, node: TeleopNode) -> None:
        self.ros, self.node = ros, node
        self.output = ros.speak('joy', JOY)
        ros.matched(self.output)
        self.heard: list[bytes] = []
        take = node._pad.take
        node._pad.take = lambda *what: (self.heard.append(what), take(*what))[1]

    def press(self, *buttons: int) -> None:
        """Press and let go, the dead-man button held."""
        self.send({}, HOLDING | set(buttons))
        self.send({}, HOLDING)

    def send(self, axes: dict[int, float], pressed: set[int] = HOLDING) -> None:
        count = len(self.heard)
        self.output.publish(joy(axes, pressed))
        self.ros.until(lambda: len(self.heard) > count, 'the pad')

    def want(self, action: np.ndarray) -> None:
        """Do all that it takes to get an action (7,)."""
        if (action[6] < 0.5) != (self.node._jogger.opening == 0.0):
            self.press(PAD.gripper)
        size = np.clip(action[:6] / TOP, -1.0, 1.0)
        self.send({a.axis: float(a.scale * s) for a, s in zip(PAD.axes, size)})


def _is_newer(raws: list[bytes], after_ns: int) -> bool:
    return bool(raws) and json.loads(wire.decode_string(raws[-1]))['ts_ns'] > after_ns


@pytest.mark.parametrize(
    ('task', 'seed'), [('push', 5), pytest.param('pick', 3, marks=pytest.mark.long)]
)
def test_a_person_records_a_demonstration_in_the_simulator_and_the_dataset_reads_it(
    ros, tmp_path: Path, task: str, seed: int
):
    simulator = ros.add(
        SimulatorNode, split='train', seed=seed, disturbances=False, reset_on_start=False,
        publish_instruction=True, command_timeout_s=PATIENCE_S,
    )  # fmt: skip
    simulator._timer.cancel()  # the world waits for the person, however busy the machine is
    recorder = ros.add(TrainingNode, folder=str(tmp_path), autostart=True, use_sim_time=True)
    recorder.begin()
    teleop = ros.add(
        TeleopNode, use_sim_time=True, speed=1.0, dead_zone=0.0, expo=0.0, joy_timeout_s=5.0
    )
    person, view = Person(ros, teleop), TruthView()
    states = ros.listen('simulator_node/state', 'std_msgs/msg/String')
    twists = ros.listen(TWIST, 'geometry_msgs/msg/TwistStamped')
    ros.until(teleop.episodes.ready, 'the recorder')
    for topic in recorder._recorder.embodiment.topics():
        ros.until(lambda topic=topic: ros.client.count_subscribers(topic) >= 1, topic)

    def begins() -> bool:
        assert ros.trigger('simulator_node/reset').success
        return all(node.get_clock().now().nanoseconds for node in (teleop, recorder))

    def go_on() -> None:
        simulator._tick()
        simulator._pending.result()

    def look(after_ns: int) -> None:
        """See what comes next, and that the arm was told what was wanted before."""
        raw = states.wait_for(lambda raws: _is_newer(raws, after_ns) and raws[-1])
        view.update(wire.decode_string(raw))
        if after_ns:
            twists.wait_for(
                lambda raws: view.time_ns in [wire.decode_twist_stamped(r).ts_ns for r in raws]
            )

    ros.until(begins, 'an episode whose time everybody has heard of')
    person.send({}, set())  # the dead-man button is seen to be free
    person.press(PAD.start)
    ros.until(lambda: recorder._recorder.recording, 'an episode')
    look(0)
    assert view.spec.task == task
    expert = Expert(view)
    expert.reset(view.spec)
    while not expert.done:
        person.want(expert.action())
        go_on()
        look(view.time_ns)
    assert view.status().success
    person.send({}, set())
    ros.until(lambda: go_on() or not teleop._jogger.driving, 'rest')
    person.send({}, {PAD.success})
    ros.until(lambda: find_episodes(tmp_path), 'the bag')

    info = EpisodeReader(find_episodes(tmp_path)[0]).info
    assert info.success is True and info.instruction == view.spec.instruction
    assert info.extra == {}  # nobody took anything over
    episode = read_episode(info.path)
    assert len(episode.index) > 20
    moved = np.abs(episode.index.actions[:, :3]).max(0)
    assert (moved > 0.003).all()
    assert episode.index.actions[-1][6] == pytest.approx(0.0)  # it pushed with closed fingers
    assert simulator._causes.snapshot().get('broken command', 0) == 0


def test_no_button_means_no_command_and_letting_go_ends_in_zero_and_silence(ros):
    twists = ros.listen(TWIST, 'geometry_msgs/msg/TwistStamped')
    grippers = ros.listen(GRIPPER, 'std_msgs/msg/Float64')
    node = ros.add(TeleopNode, joy_timeout_s=5.0, speed=0.4, dead_zone=0.0, expo=0.0)
    for topic in (TWIST, GRIPPER):
        ros.until(lambda topic=topic: ros.client.count_publishers(topic) == 1, topic)
    person = Person(ros, node)
    person.send({1: 1.0}, set())
    person.send({1: 1.0}, HOLDING)
    decode = wire.decode_twist_stamped
    full = twists.wait_for(lambda raws: [r for r in raws if decode(r).linear[0] > 0.19])
    sample = decode(full[0])
    assert sample.linear[0] == pytest.approx(0.2) and sample.frame_id == 'base_link'
    assert wire.decode_float64(grippers.wait_for(lambda raws: raws)[0]) == 1.0
    person.send({1: 1.0}, set())
    ros.until(lambda: not node._jogger.driving, 'silence')
    count = len(twists.messages)
    assert not any(moves(wire.decode_twist_stamped(r)) for r in twists.messages[-3:])
    node._tick()
    node._tick()
    assert len(twists.messages) == count
    person.send({1: float('nan')}, HOLDING)
    ros.until(lambda: node._causes.snapshot() == {'joy': 1}, 'a refusal')
    assert not node._jogger.driving


def test_what_the_recorder_answers_is_told_be_it_yes_or_no(ros, tmp_path: Path):
    node = ros.add(TeleopNode)
    said, say = [], node._say
    node.episodes._say = lambda text, well=True: (said.append((text, well)), say(text, well))
    node.episodes.call('discard')
    assert 'is the recorder there?' in said[0][0]
    recorder = ros.add(TrainingNode, folder=str(tmp_path), autostart=True)
    recorder.begin()
    ros.until(node.episodes.ready, 'the recorder')
    for name in ('discard', 'start', 'discard'):
        count = len(said)
        node.episodes.call(name)
        ros.until(lambda count=count: len(said) > count, name)
    assert [(text.partition(':')[0], well) for text, well in said[1:]] == [
        ('discard', False), ('start', True), ('discard', True)
    ]


def test_a_person_is_told_once_why_nothing_moves_and_who_else_commands(ros):
    node = ros.add(TeleopNode, joy_timeout_s=5.0)
    said = []
    node._lookout._say = lambda text, well: said.append(text)
    person = Person(ros, node)
    person.send({}, set())
    node._lookout.look()  # nobody wants anything
    assert said == []
    person.send({1: 1.0})
    node._lookout.look()
    assert said == [f'no joint_states yet; nobody listens on {TWIST}']
    other = ros.speak(TWIST, 'geometry_msgs/msg/TwistStamped')
    ros.matched(other)
    ros.listen(TWIST, 'geometry_msgs/msg/TwistStamped')
    ros.until(lambda: node.count_subscribers(TWIST) == 2, 'somebody who listens')
    ros.until(lambda: node.count_publishers(TWIST) == 2, 'somebody else')
    for _ in range(3):
        person.send({1: 1.0})
        node._lookout.look()
    assert len(said) == 2 and 'take a policy over with prefix:=teleop' in said[1]


def test_a_node_that_is_closed_while_somebody_drives_leaves_the_arm_at_rest(ros):
    twists = ros.listen(TWIST, 'geometry_msgs/msg/TwistStamped')
    node = ros.add(TeleopNode, joy_timeout_s=5.0, speed=1.0)
    ros.until(lambda: ros.client.count_publishers(TWIST) == 1, TWIST)
    person = Person(ros, node)
    person.send({}, set())
    person.send({1: 1.0}, HOLDING)
    twists.wait_for(lambda raws: raws and moves(wire.decode_twist_stamped(raws[-1])))
    node.close()
    last = twists.wait_for(lambda raws: not moves(wire.decode_twist_stamped(raws[-1])) and raws)
    assert node._jogger.arm.guard.at_rest
    assert not moves(wire.decode_twist_stamped(last[-1]))


def test_a_person_at_the_pad_takes_a_policy_over_and_keeps_hold_of_what_it_held(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True, intervention_timeout_s=5.0)
    teleop = ros.add(
        TeleopNode, prefix='teleop', joy_timeout_s=5.0, speed=0.4, dead_zone=0.0, expo=0.0
    )
    flags = ros.listen('intervention', 'std_msgs/msg/Bool', latched(), raw=False)
    person = Person(ros, teleop)
    for topic in (TWIST, GRIPPER):
        ros.until(lambda t=topic: ros.client.count_publishers(f'teleop/{t}') == 1, topic)
        ros.until(lambda t=topic: ros.client.count_publishers(t) == 1, 'no other way out')
        ros.until(lambda t=topic: ros.client.count_subscribers(t) == 2, 'who follows')
    robot.say()
    robot.show(T0)
    robot.twist(T0)
    assert node._loop.last.action[6] < 0.1  # it closes, and the fingers are measured to be open
    ros.until(lambda: teleop._jogger.opening is not None, 'what the arm was told')
    person.send({}, set())
    person.send({0: -1.0}, HOLDING)
    ros.until(node._loop.interventions.drives, 'a person')
    ros.until(lambda: node._loop.interventions.person._newest[1][1] < -0.019, 'full speed')
    for step in range(1, 4):
        robot.show(T0 + step * STEP)
        sent = robot.twist(T0 + step * STEP)
    assert sent.linear[1] == pytest.approx(-0.2, abs=1e-3)
    assert wire.decode_float64(robot.grippers.messages[-1]) < 0.1
    assert [m.data for m in flags.wait_for(lambda ms: len(ms) == 2 and ms)] == [False, True]
