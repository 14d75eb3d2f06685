"""The words of a task, and what is held out: `config/splits.yaml`, read and checked once."""

from __future__ import annotations

from dataclasses import dataclass
import functools
from pathlib import Path

import yaml

from vla_alignment_ros.embodiment import package_path
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.sim.spec import TASKS

SEEDS_PER_SPLIT = 10_000_000
SPLITS = ('train', 'val', 'seen', 'unseen_objects', 'unseen_phrases', 'swapped', 'absent')


@dataclass(frozen=True)
class SplitConfig:
    """What `config/splits.yaml` says."""

    seed_offsets: dict[str, int]
    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    trays: tuple[str, ...]
    sides: tuple[str, ...]
    held_out_pairs: frozenset[tuple[str, str]]
    task_weights: dict[str, float]
    train_phrases: dict[str, tuple[str, ...]]
    held_out_phrases: dict[str, tuple[str, ...]]

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple((c, s) for c in self.colors for s in self.shapes)

    @property
    def train_pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple(pair for pair in self.pairs if pair not in self.held_out_pairs)

    def stream_seed(self, split: str, seed: int) -> int:
        """The seed of the random stream of one episode; never the same in two splits."""
        if split not in self.seed_offsets:
            raise ConfigError(f'unknown split {split!r}: choose one of {", ".join(SPLITS)}')
        if not 0 <= seed < SEEDS_PER_SPLIT:
            raise ConfigError(f'seed {seed} is outside 0…{SEEDS_PER_SPLIT - 1}')
        return self.seed_offsets[split] + seed


def render_phrase(template: str, target: str, tray: str | None, side: str | None) -> str:
    """Fill a phrase: 'put the {object} in the {tray} tray' → a sentence."""
    return template.format(object=target, tray=tray, side=side)


@functools.lru_cache(maxsize=4)
def load_splits(path: Path | None = None) -> SplitConfig:
    """Read and check the split file (the shipped one unless `path` is given)."""
    path = path or package_path('config', 'splits.yaml')
    try:
        data = yaml.safe_load(path.read_text())
        config = SplitConfig(
            seed_offsets={k: int(v) for k, v in data['seed_offsets'].items()},
            colors=tuple(data['colors']),
            shapes=tuple(data['shapes']),
            trays=tuple(data['trays']),
            sides=tuple(data['sides']),
            held_out_pairs=frozenset((c, s) for c, s in data['held_out_pairs']),
            task_weights={k: float(v) for k, v in data['task_weights'].items()},
            train_phrases={k: tuple(v['train']) for k, v in data['phrases'].items()},
            held_out_phrases={k: tuple(v['held_out']) for k, v in data['phrases'].items()},
        )
    except OSError as error:
        raise ConfigError(f'cannot read the splits: {error}') from error
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f'{path} is not a valid split file: {error!r}') from error
    _check(config, path)
    return config


def _check(config: SplitConfig, path: Path) -> None:
    def refuse(reason: str) -> None:
        raise ConfigError(f'{path}: {reason}')

    if set(config.seed_offsets) != set(SPLITS):
        refuse(f'seed_offsets must name exactly {", ".join(SPLITS)}')
    offsets = sorted(config.seed_offsets.values())
    if any(b - a < SEEDS_PER_SPLIT for a, b in zip(offsets, offsets[1:], strict=False)):
        refuse(f'seed_offsets must be at least {SEEDS_PER_SPLIT} apart')
    if unknown := config.held_out_pairs - set(config.pairs):
        refuse(f'held_out_pairs has unknown pairs {sorted(unknown)}')
    for words, index in ((config.colors, 0), (config.shapes, 1)):
        for word in words:
            if sum(pair[index] == word for pair in config.train_pairs) < 2:
                refuse(f'{word!r} must appear in at least two training pairs')
    for phrases in (config.train_phrases, config.held_out_phrases, config.task_weights):
        if set(phrases) != set(TASKS):
            refuse(f'phrases and task_weights need exactly the tasks {", ".join(TASKS)}')
    for task in TASKS:
        if both := set(config.train_phrases[task]) & set(config.held_out_phrases[task]):
            refuse(f'{task}: held out and trained on at once: {sorted(both)}')
