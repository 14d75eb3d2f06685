"""The instruction changes while the arm works: after the new one's first, nothing of the old."""

from __future__ import annotations

import threading
import time

from decision_bench import Bench, OPEN_GATE, SENTENCE, SightedPolicy, STEP, T0
import numpy as np
import pytest
from scripted_policy import PATIENCE_S
from tabletop_robot import start

from vla_alignment_ros import wire
from vla_alignment_ros.control.executor import EXECUTIONS

SENTENCES = (SENTENCE, 'push the ball', 'stack the bricks')
# slow, so that the hand stays within its box however long a busy machine takes
WAYS = dict(zip(SENTENCES, np.vstack([np.eye(7)[:2], -np.eye(7)[:1]]) * 0.002 + np.eye(7)[6]))
TRIALS = 100


def talkative_policy() -> SightedPolicy:
    policy = SightedPolicy(horizon=600)
    policy.told = WAYS
    return policy


class Conversation:
    """A loop at the control rate that is told one thing after the other."""

    def __init__(self, bench: Bench, rng: np.random.Generator) -> None:
        self.bench, self.rng, self.now_ns = bench, rng, T0
        bench.loop.start()
        self.said = SENTENCE
        bench.say(self.said)

    def ticks(self, most: int) -> None:
        for _ in range(int(self.rng.integers(most + 1))):
            self.now_ns += STEP
            self.bench.loop.tick(self.now_ns)

    def work(self, least: int = 1) -> None:
        """Decide and command for what was said last."""
        for _ in range(int(self.rng.integers(least, 4))):
            self.now_ns += STEP
            self.bench.go_on(self.now_ns)
            self.bench.loop.tick(self.now_ns)
        assert self.bench.commands[-1].state == 'go'
        assert self.bench.commands[-1].instruction == self.said

    def say(self) -> None:
        others = [text for text in SENTENCES if text != self.said]
        self.said = str(self.rng.choice(others))
        self.bench.say(self.said, self.now_ns)

    def between_decisions(self) -> None:
        self.say()
        self.ticks(3)

    def during_inference(self) -> None:
        policy, bench = self.bench.policy, self.bench
        self._begin_inference()
        self.ticks(3)
        for _ in range(int(self.rng.integers(1, 3))):  # perhaps twice
            self.say()
            self.ticks(2)
        policy.free.set()
        bench.until(lambda: len(bench.verdicts) > self.decided)
        self.ticks(2)

    def as_inference_ends(self) -> None:
        """Which of the two comes first is the machine's to say; neither may go wrong."""
        bench, together = self.bench, threading.Barrier(3)
        self._begin_inference()
        spins = self.rng.integers(0, 300, 2)

        def meet(spin: int, action) -> None:
            together.wait(PATIENCE_S)
            for _ in range(spin):
                pass
            action()

        threads = [
            threading.Thread(target=meet, args=(int(spins[0]), bench.policy.free.set)),
            threading.Thread(target=meet, args=(int(spins[1]), self.say)),
        ]
        for thread in threads:
            thread.start()
        together.wait(PATIENCE_S)
        bench.loop.tick(self.now_ns)
        for thread in threads:
            thread.join(PATIENCE_S)
        bench.until(lambda: len(bench.verdicts) > self.decided)
        self.ticks(2)

    def _begin_inference(self) -> None:
        self.decided = len(self.bench.verdicts)
        self.bench.policy.free.clear()
        self.bench.policy.entered.clear()
        self.now_ns += STEP
        self.bench.show(self.now_ns)
        assert self.bench.policy.entered.wait(PATIENCE_S)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ('execution', 'trials'),
    [('newest', 24), *(pytest.param(name, TRIALS, marks=pytest.mark.long) for name in EXECUTIONS)],
)
def test_no_command_answers_the_old_instruction_once_the_new_one_had_one(
    make_bench, steady, execution, trials
):
    config = type(OPEN_GATE)(**{**vars(OPEN_GATE), 'execution': execution})
    bench = make_bench(on_arrival=False, policy=talkative_policy(), config=config)
    talk = Conversation(bench, np.random.default_rng(11))
    ways = [talk.between_decisions, talk.during_inference, talk.as_inference_ends]
    for trial in range(trials):
        talk.work()
        ways[trial % len(ways)]()
    talk.work()
    newest, changes = 0, 0
    for command in bench.commands:
        assert command.instruction_id >= newest
        changes += command.instruction_id > newest
        newest = command.instruction_id
        if command.state == 'go':
            wanted = WAYS[command.instruction][:6]
        else:
            wanted = np.zeros(6)  # so slow an arm stops at once
        if command.action is not None:
            np.testing.assert_allclose(command.action[:6], wanted, atol=1e-7)
    assert changes > trials / 2  # where no tick came in between, a change shows nothing
    assert bench.loop.pipeline._instruction_id > trials


class Sensors(threading.Thread):
    """Shows a robot, again and again."""

    def __init__(self, robot) -> None:
        super().__init__()
        self._robot, self.done = robot, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.done.wait(0.03):
            self._robot.show(time.time_ns())


@pytest.mark.timeout(600)
@pytest.mark.parametrize('trials', [6, pytest.param(TRIALS, marks=pytest.mark.long)])
def test_a_live_node_never_returns_to_the_old_instruction(ros, checkpoint, trials):
    robot, node = start(ros, checkpoint)
    policy = talkative_policy()
    node._loop.pipeline.exchange(policy, OPEN_GATE)
    sensors, rng = Sensors(robot), np.random.default_rng(5)
    said = [SENTENCES[0], SENTENCES[2]]  # there, and back

    def last(state: str, text: str) -> bool:
        command = node._loop.last
        return command is not None and (command.state, command.instruction) == (state, text)

    try:
        robot.say(said[0])
        for trial in range(trials):
            old, new = said[trial % 2], said[(trial + 1) % 2]
            ros.until(lambda text=old: last('go', text), 'motion')
            if rng.random() < 0.7:  # while a decision is being made
                policy.free.clear()
                policy.entered.clear()
                assert policy.entered.wait(PATIENCE_S)
                if rng.random() < 0.5:
                    count = len(robot.twists.messages)
                    robot.twists.wait_for(lambda raws, n=count: len(raws) > n)
                robot.say(new)
                ros.until(lambda text=new: last('hold', text), 'the stop')
                policy.single = True
                policy.entered.clear()
                policy.free.set()  # the old decision ends, and ticks come before the next one does
                assert policy.entered.wait(PATIENCE_S)
                count = len(robot.twists.messages)
                robot.twists.wait_for(lambda raws, n=count: len(raws) > n + 1)
                policy.single = False
                policy.free.set()
            else:
                robot.say(new)
        ros.until(lambda: last('go', new), 'motion')
        count = len(robot.twists.messages)
        robot.twists.wait_for(lambda raws: len(raws) > count + 1)
    finally:
        policy.single = False
        policy.free.set()
        sensors.done.set()
        sensors.join()
    speeds = np.array([wire.decode_twist_stamped(raw).linear[0] for raw in robot.twists.messages])
    signs = np.sign(speeds).astype(int)
    runs = signs[np.flatnonzero(np.diff(signs, prepend=2))]  # what changed to what
    motions = runs[runs != 0]
    assert len(motions) == trials + 1, runs
    assert (motions == np.where(np.arange(trials + 1) % 2, -1, 1)).all(), runs
