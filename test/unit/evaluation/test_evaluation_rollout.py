"""The in-process closed loop moves the simulated arm through the real bytes, and repeats."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from scripted_policy import answer

from vla_alignment_ros.control.decisions import PipelineConfig
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation.episode import EpisodeLimits
from vla_alignment_ros.evaluation.rollout import InProcessRunner
from vla_alignment_ros.evaluation.runner import describe, plan_splits, run_plan
from vla_alignment_ros.sim.expert import Expert


class ExpertAsPolicy:
    """Answers with what the expert would do; the score says whether the named object is there."""

    def __init__(self):
        self.world = None

    def reset(self):
        self.expert = Expert(self.world)
        self.expert.reset(self.world.spec)

    def step(self, observation, candidates=1, seed=None):
        action = self.expert.action()[None]
        score = 0.9 if self.world.spec.target_present else 0.1
        return answer(observation, action, score)


class NoisyPolicy(ExpertAsPolicy):
    """Moves about at random, but seeded, as a model that draws its candidates does."""

    def step(self, observation, candidates=1, seed=None):
        rng = np.random.default_rng(seed)
        actions = rng.normal(0, 0.02, (4, 7)).astype(np.float32)
        # sees the picture, so that a difference in what is seen shows
        actions[:, 0] += np.float32(observation.images['front'].mean() * 1e-4)
        return answer(observation, actions, float(rng.uniform(0.5, 1.0)))


def roll(policy, splits, episodes=1, seed=0, film=False, max_steps=120):
    limits = EpisodeLimits(max_steps=max_steps, hold_steps=12)
    config = PipelineConfig()
    with InProcessRunner(Embodiment.load('tabletop'), policy, config, limits, film) as runner:
        policy.world = runner.world
        return list(run_plan(runner, plan_splits(splits, episodes, seed)))


def comparable(result):
    return {k: v for k, v in asdict(result).items() if k not in ('wall_s', 'latency_s')}


def test_a_policy_that_knows_succeeds_through_guard_and_codec():
    for result, film in roll(ExpertAsPolicy(), ('seen', 'unseen_phrases'), episodes=2, film=True):
        assert (result.success, result.end, result.wrong_object) == (True, 'success', False)
        assert result.touched == (result.target,)
        assert result.gates[0] == 'hold' and set(result.gates[1:]) == {'go'}
        assert film.pick(3)[-1][0] == result.steps
        assert '✓' in describe(result)


def test_a_policy_whose_score_is_low_refuses_and_moves_nothing():
    ((result, _),) = roll(ExpertAsPolicy(), ('absent',))
    assert (result.success, result.refused, result.steps) == (True, True, 12)
    assert result.displaced_m < 0.001 and not result.touched


def test_the_same_seeds_give_the_same_episodes():
    first = roll(NoisyPolicy(), ('seen',), episodes=2, seed=4, max_steps=25)
    again = roll(NoisyPolicy(), ('seen',), episodes=2, seed=4, max_steps=25)
    assert [comparable(r) for r, _ in first] == [comparable(r) for r, _ in again]
    assert first[0][0].scores != first[1][0].scores or first[0][0].target != first[1][0].target


def test_an_episode_does_not_depend_on_the_ones_before_it():
    alone = roll(NoisyPolicy(), ('seen',), episodes=1, seed=5, max_steps=25)[0][0]
    second = roll(NoisyPolicy(), ('seen',), episodes=2, seed=4, max_steps=25)[1][0]
    assert comparable(second) | {'index': 0} == comparable(alone)


@pytest.mark.parametrize(('episodes', 'seed'), [(0, 0), (1, -1)])
def test_counts_that_make_no_sense_are_refused(episodes, seed):
    with pytest.raises(ConfigError):
        plan_splits(('seen',), episodes, seed)
