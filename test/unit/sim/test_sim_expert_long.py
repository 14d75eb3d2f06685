"""The scripted expert solves what it is asked: its demonstrations are what a policy learns."""

from __future__ import annotations

import pytest

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.evaluation.stats import wilson_interval
from vla_alignment_ros.sim.expert import Expert
from vla_alignment_ros.sim.stream import apply_action
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import TabletopWorld

EPISODES = 300
AT_LEAST = 0.98


def _solved(world: TabletopWorld, embodiment: Embodiment, seed: int) -> bool:
    spec = sample_episode(seed, 'seen')
    expert = Expert(world)
    world.reset(spec)
    expert.reset(spec)
    while not expert.done:
        apply_action(world, embodiment, expert.action())
    return world.status().success


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_expert_solves_nearly_every_seen_scene():
    embodiment = Embodiment.load('tabletop')
    with TabletopWorld() as world:
        failed = [seed for seed in range(EPISODES) if not _solved(world, embodiment, seed)]
    solved = EPISODES - len(failed)
    low, high = wilson_interval(solved, EPISODES)
    assert solved / EPISODES >= AT_LEAST, (
        f'{solved}/{EPISODES} = {solved / EPISODES:.3f}, 95 % interval [{low:.3f}, {high:.3f}]; '
        f'failed: {failed}'
    )
