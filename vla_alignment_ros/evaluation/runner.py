"""Runs the episodes of an evaluation, whoever executes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation.films import Film
from vla_alignment_ros.evaluation.results import EpisodeResult


class EpisodeRunner(Protocol):
    """Executes one episode and says what it came to."""

    def run(self, index: int, split: str, seed: int) -> tuple[EpisodeResult, Film]: ...


@dataclass(frozen=True)
class Planned:
    """One episode to run: scene number `seed` of `split`."""

    index: int
    split: str
    seed: int


def plan_splits(splits: Iterable[str], episodes: int, seed: int) -> list[Planned]:
    """Plan the same number of episodes of every split, one split after another.

    Episode i of a split is the split's scene number ``seed + i``, so a single one is repeated
    with that seed and ``episodes=1``. Raises ConfigError for counts that make no sense.
    """
    if episodes < 1:
        raise ConfigError(f'episodes must be at least 1, got {episodes}')
    if seed < 0:
        raise ConfigError(f'seed must not be negative, got {seed}')
    return [Planned(i, split, seed + i) for split in splits for i in range(episodes)]


def run_plan(
    runner: EpisodeRunner, plan: Iterable[Planned]
) -> Iterator[tuple[EpisodeResult, Film]]:
    """Run the episodes of a plan in their order."""
    for item in plan:
        yield runner.run(item.index, item.split, item.seed)


def describe(result: EpisodeResult) -> str:
    """One line for a terminal: what was asked, what came of it, how sure it was."""
    mark = '✓' if result.success else '✗'
    return (
        f'{mark} {result.split}: {result.instruction} → {result.outcome}, '
        f'score {result.mean_score:.2f}'
    )
