"""Whatever happens to a pipeline, what it commands keeps position, velocity, acceleration, jerk.

The guard's own tests play chunks; here they come through decisions, with all that interrupts
them: holds, other models, other instructions, clocks that jump, bad values, a gate that wavers,
a person who takes over and lets go.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from motion_limits import (
    assert_all_were_tried,
    assert_within_limits,
    EMBODIMENTS,
    random_wishes,
    RANGE,
    RATE_HZ,
    SLACK,
)
import numpy as np
import pytest
from scripted_policy import answer

from vla_alignment_ros.control.decisions import Command, PipelineConfig
from vla_alignment_ros.control.executor import EXECUTIONS
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.observation import Observation

PERIOD_NS = 100_000_000
# where the hand is, is not known to these robots
ROBOTS = [robot for robot in EMBODIMENTS if robot.action.workspace_low is None]


class WildPolicy:
    """Wants anything, and now and then nothing that is a number."""

    def __init__(self, rng: np.random.Generator, embodiment: Embodiment) -> None:
        self._rng, self._embodiment = rng, embodiment

    def reset(self) -> None:
        pass

    def step(self, observation, candidates=1, seed=None, plan=None):
        horizon = int(self._rng.integers(1, 12))
        wishes = random_wishes(self._rng, self._embodiment, horizon)
        if self._rng.random() < 0.05:
            wishes[self._rng.integers(horizon), self._rng.integers(7)] = np.nan
        score = float(self._rng.choice([0.9, 0.9, 0.9, 0.45, 0.1, np.nan]))
        return answer(observation, wishes.astype(np.float32), score)


class Life:
    """One pipeline, its robot that does what it is told, and everything that was executed."""

    def __init__(self, rng: np.random.Generator, embodiment: Embodiment) -> None:
        self.rng, self.embodiment, self.ts_ns = rng, embodiment, 10**12
        self.config = PipelineConfig(
            confirm=1, dwell=1, execution=str(rng.choice(EXECUTIONS)), seed=1
        )
        self.pipeline = DecisionPipeline(embodiment, self._policy(), self.config)
        self.positions = embodiment.action.space == 'joint_position'
        # as float64, so that reading it again is no jump by rounding
        self.state = np.array([0.3, -0.2, 0.1, 1.9, -1.99, 0.0, 0.5])
        self.ranged = embodiment.action.position_low is not None
        if self.ranged:
            self.state[:6] = rng.uniform(*RANGE)
        self.start = self.state.copy() if self.positions else np.eye(7)[6] * 0.5
        self.executed: list[np.ndarray] = []
        self.words = 'lift'

    def _policy(self) -> WildPolicy:
        return WildPolicy(self.rng, self.embodiment)

    def execute(self, command: Command) -> None:
        self.ts_ns += PERIOD_NS
        if command.action is None:  # nothing is known yet, as after a start: it stands still
            assert not self.executed or self._rests()
            return
        off = np.abs(self.pipeline.codec.decode(command.messages) - command.action)
        assert (off <= 1e-6 + 1e-5 * np.abs(command.action)).all(), off
        self.executed.append(command.action)
        first = 0 if self.positions else 6
        self.state[first:] = command.action[first:]
        if self.ranged:
            self.state[:6] += command.action[:6] / RATE_HZ
            assert (self.state[:6] >= RANGE[0] - SLACK).all(), f'{self.state} is too low'
            assert (self.state[:6] <= RANGE[1] + SLACK).all(), f'{self.state} is too high'

    def decide(self) -> None:
        self.pipeline.decide(Observation(self.ts_ns, {}, self.state.copy(), self.words))

    def command(self, most: int = 5) -> None:
        for _ in range(int(self.rng.integers(1, most + 1))):
            self.execute(self.pipeline.command(self.ts_ns))

    def hold(self) -> None:
        for _ in range(int(self.rng.integers(1, 4))):
            self.execute(self.pipeline.hold(self.ts_ns, 'front is stale'))

    def exchange(self) -> None:
        self.pipeline.exchange(self._policy(), self.config)

    def say(self) -> None:
        self.words = str(self.rng.choice(['lift', 'push', 'stack']))
        self.pipeline.set_instruction(self.words)

    def jump(self) -> None:
        """The clock is set, and sensors and commands go by it."""
        self.ts_ns += int(self.rng.choice([-7, -1, 1, 7])) * 10**9 * int(self.rng.integers(1, 50))

    def drive(self, most: int = 5) -> None:
        """A person takes over, and now and then lets go."""
        for wish in random_wishes(self.rng, self.embodiment, int(self.rng.integers(1, most + 1))):
            if self.rng.random() < 0.05:
                wish[self.rng.integers(7)] = np.nan
            known = self.pipeline.opening() is not None and self.rng.random() < 0.5
            measured = None if known else (self.ts_ns, self.state.copy())
            self.execute(self.pipeline.drive(self.ts_ns, wish, measured))
        if self.rng.random() < 0.7:
            self.pipeline.release()

    def rest_and_reset(self) -> None:
        """A stop and a start."""
        for _ in range(1000):
            before = len(self.executed)
            self.execute(self.pipeline.hold(self.ts_ns, 'deactivated'))
            if len(self.executed) == before or self._rests():
                break
        else:
            raise AssertionError('it does not come to rest')
        self.pipeline.reset()

    def _rests(self) -> bool:
        last = self.executed[-3:]
        return len(last) == 3 and np.array_equal(last[0], last[1]) and np.array_equal(*last[1:])


EVENTS = (Life.hold, Life.exchange, Life.say, Life.jump, Life.rest_and_reset, Life.drive)


def live(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    life = Life(rng, ROBOTS[seed % len(ROBOTS)])
    for _ in range(int(rng.integers(3, 12))):
        if rng.random() < 0.8:
            life.decide()
        life.command()
        if rng.random() < 0.4:
            EVENTS[rng.integers(len(EVENTS))](life)
    if not life.executed:
        return {}
    return assert_within_limits(life.embodiment, np.array(life.executed), life.start)


def hand_over(seed: int, before: list[str]) -> dict[str, float]:
    """Policy and person have the arm by turns; `before` each take-over, what the policy does."""
    robot = ROBOTS[seed % len(ROBOTS)]
    life = Life(np.random.default_rng(seed), robot)
    for event in before:
        getattr(life, event)()
        life.command(2)
        life.drive(3)
    return assert_within_limits(robot, np.array(life.executed), life.start)


def hand_over_many(count: int) -> None:
    """So many take-overs in all."""
    used, taken = [], []

    @settings(max_examples=count // 4, deadline=None, derandomize=True, database=None)
    @given(
        st.integers(0, 2**32 - 1),
        st.lists(st.sampled_from(['decide', 'command', 'hold']), min_size=4, max_size=8),
    )
    def keeps_the_limits(seed: int, before: list[str]) -> None:
        used.append(hand_over(seed, before))
        taken.append(len(before))

    keeps_the_limits()
    assert sum(taken) >= count
    assert_all_were_tried(used)


def live_many(count: int) -> None:
    used = []
    for seed in range(count):
        try:
            used.append(live(seed))
        except AssertionError as broken:
            raise AssertionError(f'life {seed}: {broken}') from broken
    assert_all_were_tried(used)


def test_a_hundred_pipelines_break_no_limit_whatever_interrupts_them():
    live_many(100)


def test_a_thousand_hand_overs_between_policy_and_person_break_no_limit():
    hand_over_many(1000)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_thirty_thousand_hand_overs_between_policy_and_person_break_no_limit():
    hand_over_many(30_000)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_five_thousand_pipelines_break_no_limit_whatever_interrupts_them():
    live_many(5000)
