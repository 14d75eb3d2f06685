"""What an episode came to, what a split came to, and the JSON they are kept in."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
import json
from pathlib import Path

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation.smoothness import Smoothness
from vla_alignment_ros.evaluation.stats import median, rate, wilson_interval

# Evaluated splits in the order tables show them, with what counts as success in each.
SPLIT_MEANING = {
    'seen': 'new scenes of trained objects, trained phrases',
    'unseen_objects': 'colour–shape pairs that were never in the training data',
    'unseen_phrases': 'phrasings that were never in the training data',
    'swapped': 'a seen scene, the sentence changed to another of its objects',
    'absent': 'names an object that is not there; success = it refuses',
}
OTHER_SPLITS = ('train', 'val')
ABSENT = 'absent'

DISPLACED_M = 0.01  # an object that moved further than this was moved by the robot


@dataclass(frozen=True)
class EpisodeResult:
    """
    One closed-loop episode.

    ``scores`` and ``gates`` hold one entry per decision. ``end`` says why it ended: 'success',
    'limit' (no steps left) or 'hold' (the gate held without a break for the hold limit).
    ``wrong_object`` is strict: the robot touched any object other than the named one, were it
    only in passing. ``wrong_moved``: it lifted one by 2 cm or moved one by more than 4 cm.
    """

    index: int
    seed: int
    split: str
    task: str
    instruction: str
    target: str
    success: bool
    wrong_object: bool
    wrong_moved: bool
    refused: bool
    end: str
    steps: int
    duration_s: float  # simulated
    wall_s: float
    touched: tuple[str, ...]
    displaced_m: float  # largest displacement of any object
    scores: tuple[float, ...]
    gates: tuple[str, ...]
    latency_s: float  # median time of one decision
    motion: Smoothness | None = None  # where the commands are known

    @property
    def outcome(self) -> str:
        """One word for a person."""
        if self.success:
            return 'refused, rightly' if self.split == ABSENT else 'success'
        if self.refused:
            return 'refused, wrongly'
        if self.wrong_object:
            return 'wrong object'
        return {'hold': 'held midway', 'limit': 'out of time'}.get(self.end, self.end)

    @property
    def mean_score(self) -> float:
        """Mean alignment score of the episode's decisions, nan without any."""
        return sum(self.scores) / len(self.scores) if self.scores else float('nan')


def is_refusal(end: str, touched: Iterable[str], displaced_m: float) -> bool:
    """
    Tell whether the policy refused the instruction.

    It did if the episode ended because the gate held without a break for the whole hold limit,
    and until then the hand had touched no object and none was displaced by more than 1 cm.
    Standing still for another reason (running out of time, moving beside the objects) is no
    refusal: only a decision of the gate is.
    """
    return end == 'hold' and not tuple(touched) and displaced_m <= DISPLACED_M


@dataclass(frozen=True)
class SplitResult:
    """The episodes of one split, counted."""

    split: str
    episodes: tuple[EpisodeResult, ...]

    @property
    def successes(self) -> int:
        return sum(e.success for e in self.episodes)

    @property
    def success_rate(self) -> float:
        return rate(self.successes, len(self.episodes))

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson 95 % interval of the success rate."""
        return wilson_interval(self.successes, len(self.episodes))

    @property
    def wrong_object_rate(self) -> float:
        return rate(sum(e.wrong_object for e in self.episodes), len(self.episodes))

    @property
    def refused_rate(self) -> float:
        return rate(sum(e.refused for e in self.episodes), len(self.episodes))

    @property
    def median_score(self) -> float:
        """Median over the episodes of their mean alignment score."""
        return median([e.mean_score for e in self.episodes if e.scores])

    def by_task(self) -> dict[str, tuple[int, int]]:
        """Map task -> (successes, episodes)."""
        tasks: dict[str, tuple[int, int]] = {}
        for episode in self.episodes:
            won, tried = tasks.get(episode.task, (0, 0))
            tasks[episode.task] = (won + episode.success, tried + 1)
        return dict(sorted(tasks.items()))

    def to_dict(self) -> dict[str, object]:
        """Return the figures of this split as the results file has them."""
        return {
            'episodes': len(self.episodes),
            'success_rate': round(self.success_rate, 6),
            'ci95': [round(bound, 6) for bound in self.ci95],
            'wrong_object_rate': round(self.wrong_object_rate, 6),
            'refused_rate': round(self.refused_rate, 6),
            **self._motion(),
        }

    def _motion(self) -> dict[str, float]:
        """Means over the episodes, where all of them know their commands."""
        known = [asdict(e.motion) for e in self.episodes if e.motion is not None]
        if not known or len(known) < len(self.episodes):
            return {}
        return {n: round(sum(m[n] for m in known) / len(known), 6) for n in known[0]}


@dataclass(frozen=True)
class Evaluation:
    """Everything one evaluation of one checkpoint found."""

    checkpoint: str
    seed: int
    splits: Mapping[str, SplitResult]

    def to_dict(self) -> dict[str, object]:
        """Return ``{'splits': {name: figures}, 'checkpoint': …, 'seed': …}``."""
        return {
            'splits': {name: split.to_dict() for name, split in self.splits.items()},
            'checkpoint': self.checkpoint,
            'seed': self.seed,
        }

    @property
    def episodes(self) -> tuple[EpisodeResult, ...]:
        return tuple(e for split in self.splits.values() for e in split.episodes)

    def write_json(self, path: Path) -> None:
        """Write the summary; the folder is created if need be."""
        _write(path, self.to_dict())

    def write_episodes(self, path: Path) -> None:
        """Write every episode with its score and gate per decision."""
        _write(path, [asdict(episode) for episode in self.episodes])


def gather(checkpoint: str, seed: int, episodes: Iterable[EpisodeResult]) -> Evaluation:
    """Group episodes by split, in the order in which the splits first appear."""
    groups: dict[str, list[EpisodeResult]] = {}
    for episode in episodes:
        groups.setdefault(episode.split, []).append(episode)
    splits = {name: SplitResult(name, tuple(found)) for name, found in groups.items()}
    return Evaluation(checkpoint, seed, splits)


def parse_splits(text: str) -> tuple[str, ...]:
    """
    Read a comma-separated list of splits ('all' is every evaluated one), without repeats.

    Raises ConfigError naming the known ones if one is not known or none is given.
    """
    names = [name.strip() for name in text.split(',') if name.strip()]
    if names == ['all']:
        return tuple(SPLIT_MEANING)
    known = (*SPLIT_MEANING, *OTHER_SPLITS)
    unknown = [name for name in names if name not in known]
    choices = f'choose from {", ".join(known)}, or all'
    if not names:
        raise ConfigError(f'no split given; {choices}')
    if unknown:
        raise ConfigError(f'unknown split {", ".join(map(repr, unknown))}; {choices}')
    return tuple(dict.fromkeys(names))


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
