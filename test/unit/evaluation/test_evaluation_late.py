"""Decisions that take control steps: what is executed meanwhile, and when an answer counts."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from scripted_policy import answer

from vla_alignment_ros.control.decisions import PipelineConfig
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError, ControlError
from vla_alignment_ros.evaluation.late import LateDecisions, SlowPolicy
from vla_alignment_ros.evaluation.rollout import InProcessRunner
from vla_alignment_ros.observation import Observation

STEP_NS = 100_000_000
T0 = 10**9


class Counting:
    """Chunk n moves n mm in its first step, n + 0.1 mm in the next … (8 steps)."""

    def __init__(self, fails: bool = False) -> None:
        self.seen: list[int] = []
        self.plans: list[object] = []
        self._fails = fails

    def reset(self) -> None:
        pass

    def step(self, observation, candidates=1, seed=None, plan=None):
        if self._fails:
            raise ControlError('no answer')
        self.seen.append((observation.ts_ns - T0) // STEP_NS)
        self.plans.append(plan)
        actions = np.zeros((8, 7), np.float32)
        actions[:, 0] = 1e-3 * (len(self.seen) + 0.1 * np.arange(8))
        actions[:, 6] = 1.0
        return answer(observation, actions, 0.9)


def run(delay: int, steps: int, execution: str = 'newest') -> tuple[Counting, list[float], list]:
    """The policy, the commanded way along x in mm, and the verdict of every step."""
    policy = Counting()
    slow = SlowPolicy(policy) if delay else None
    config = PipelineConfig(go=0.0, hold=0.0, confirm=1, execution=execution)
    pipeline = DecisionPipeline(Embodiment.load('tabletop'), slow or policy, config)
    decisions = LateDecisions(pipeline, slow, delay)
    way, verdicts = [], []
    try:
        for step in range(steps):
            ts_ns = T0 + step * STEP_NS
            state = np.zeros(17, np.float32)
            state[8:11] = 0.5, 0.0, 0.3
            seen = Observation(ts_ns, {}, state, 'lift')
            verdicts.append(decisions.step(lambda seen=seen: seen))
            command = pipeline.command(ts_ns)
            way.append(0.0 if command.action is None else round(float(command.action[0] * 1e3), 3))
    finally:
        decisions.close()
    return policy, way, verdicts


def test_without_a_delay_every_step_has_its_own_decision():
    policy, way, verdicts = run(0, 4)
    assert policy.seen == [0, 1, 2, 3]
    assert way == [1.0, 2.0, 3.0, 4.0]
    assert all(verdicts)


def test_an_answer_counts_after_its_delay_from_the_row_that_is_due_by_then():
    policy, way, verdicts = run(2, 7)
    assert policy.seen == [0, 2, 4, 6]
    # nothing is known at first; then chunk 1 from its row 2 on, until chunk 2 is there
    assert way == [0.0, 0.0, 1.2, 1.3, 2.2, 2.3, 3.2]
    assert [v is None for v in verdicts] == [True, True, False, True, False, True, False]
    assert [(v.ts_ns - T0) // STEP_NS for v in verdicts if v] == [0, 2, 4]


def test_a_policy_is_told_the_plan_as_it_was_when_the_decision_began():
    policy, way, _ = run(2, 9, 'realtime')
    assert policy.plans[0] is None
    row = policy.plans[2].actions[0]  # planned for step 4, where that decision began
    assert round(float(row[0] * 1e3), 3) == way[4]


def test_what_goes_wrong_in_a_decision_is_raised_where_it_ends():
    slow = SlowPolicy(Counting(fails=True))
    pipeline = DecisionPipeline(Embodiment.load('tabletop'), slow, PipelineConfig())
    decisions = LateDecisions(pipeline, slow, 1)
    seen = Observation(T0, {}, np.zeros(17, np.float32), 'lift')
    decisions.step(lambda: seen)
    with pytest.raises(ControlError, match='no answer'):
        decisions.step(lambda: seen)
    decisions.close()


def test_a_delay_below_zero_is_refused():
    with pytest.raises(ConfigError, match='delay_steps'):
        InProcessRunner(Embodiment.load('tabletop'), Counting(), PipelineConfig(), delay_steps=-1)


def test_late_decisions_give_the_same_episode_again():
    found = []
    for _ in range(2):
        with InProcessRunner(
            Embodiment.load('tabletop'), Counting(), PipelineConfig(confirm=1), film=False,
            delay_steps=3,
        ) as runner:  # fmt: skip
            runner.limits = type(runner.limits)(max_steps=12)
            values = asdict(runner.run(0, 'seen', 5)[0])
            found.append({k: v for k, v in values.items() if k not in ('wall_s', 'latency_s')})
    assert found[0] == found[1]
    assert (found[0]['steps'], len(found[0]['gates'])) == (12, 3)
    assert found[0]['motion']['mean_jerk'] > 0
