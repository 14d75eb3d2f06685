"""The shipped checkpoint does what it is told, and refuses what it cannot find."""

from __future__ import annotations

import pytest

from vla_alignment_ros.control.decisions import PipelineConfig
from vla_alignment_ros.embodiment import package_path
from vla_alignment_ros.evaluation.episode import EpisodeLimits
from vla_alignment_ros.evaluation.results import EpisodeResult
from vla_alignment_ros.evaluation.rollout import InProcessRunner
from vla_alignment_ros.evaluation.runner import describe, plan_splits, run_plan
from vla_alignment_ros.evaluation.stats import wilson_interval
from vla_alignment_ros.policy.policy import Policy

SHIPPED = package_path('checkpoints', 'tabletop')

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not SHIPPED.is_dir(), reason='checkpoints/tabletop is not there'),
]


def _roll(split: str, episodes: int) -> list[EpisodeResult]:
    policy = Policy.load(SHIPPED, device='cpu')
    config = PipelineConfig(go=policy.calibration.go, hold=policy.calibration.hold)
    with InProcessRunner(
        policy.embodiment, policy, config, EpisodeLimits(), film=False
    ) as runner:
        return [result for result, _ in run_plan(runner, plan_splits((split,), episodes, 0))]


def _told(results: list[EpisodeResult], right: int) -> str:
    low, high = wilson_interval(right, len(results))
    lines = '\n'.join(f'{result.seed}: {describe(result)}' for result in results)
    return f'{right}/{len(results)}, 95 % interval [{low:.3f}, {high:.3f}]\n{lines}'


def test_it_does_what_it_is_told_in_new_scenes():
    results = _roll('val', 20)
    right = sum(result.success for result in results)
    assert right >= 0.6 * len(results), _told(results, right)


def test_it_refuses_what_is_not_there():
    results = _roll('absent', 10)
    right = sum(result.refused for result in results)
    assert right >= 0.8 * len(results), _told(results, right)
