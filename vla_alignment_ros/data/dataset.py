"""Training samples from a cache: split by episode, chunks with masks, statistics.

Shapes: B batch, H horizon, S state width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from vla_alignment_ros.control.codecs import gripper_index
from vla_alignment_ros.data.cache import build_cache, CachedEpisode, DatasetCache
from vla_alignment_ros.data.labels import NOT_KNOWN
from vla_alignment_ros.data.lerobot.keys import LeRobotKeys
from vla_alignment_ros.data.source import common_embodiment, find_sources, folder_of
from vla_alignment_ros.embodiment import ACTION_DIM, Embodiment
from vla_alignment_ros.errors import DatasetError
from vla_alignment_ros.observation import EE_POSITION, ObservationAssembler

SPLITS = ('train', 'val', 'all')
CACHE_FOLDER = '.vla_cache'  # hidden, so that it is never searched for episodes


@dataclass(frozen=True)
class DatasetStatistics:
    """What a model's normaliser and a reader need to know about a set of samples."""

    action_q01: tuple[float, ...]  # (7,) 1 % quantile, physical units
    action_q99: tuple[float, ...]  # (7,) 99 % quantile
    state_mean: tuple[float, ...]  # (S,)
    state_std: tuple[float, ...]  # (S,)
    samples: int
    episodes: int
    instructions: dict[str, int]  # normalised text -> episodes that begin with it
    tasks: dict[str, int]  # task name -> episodes; '' where the bag does not say

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, fit for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


class DemonstrationDataset(Dataset):
    """Samples of one split of a cache; map-style, with a fast path for whole batches.

    Args:
        cache: where the samples are.
        split: 'train', 'val' or 'all'.
        horizon: steps of an action chunk, H.
        val_fraction: share of the episodes that is kept from training.
        seed: of the split.

    Raises:
        DatasetError: unknown split, or no episode falls into it.
    """

    def __init__(
        self,
        cache: DatasetCache,
        split: str = 'train',
        horizon: int = 8,
        val_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise DatasetError(f'split {split!r} is unknown; allowed: {", ".join(SPLITS)}')
        if horizon < 1:
            raise DatasetError(f'horizon must be at least 1 step, got {horizon}')
        self.cache = cache
        self.split = split
        self.horizon = horizon
        names = [episode.name for episode in cache.episodes]
        chosen = split_episodes(names, val_fraction, seed)
        self.episodes = tuple(
            e for e, is_val in zip(cache.episodes, chosen) if split in ('all', _NAMES[is_val])
        )
        if not self.episodes:
            raise DatasetError(
                f'no episode in split {split!r} of {len(names)} with val_fraction {val_fraction}'
            )
        self.rows = np.concatenate([np.arange(e.start, e.stop) for e in self.episodes])
        arrays = cache.arrays
        self._state = np.array(arrays['state'])  # small: in memory
        self._actions = np.array(arrays['actions'])
        self._rows = {
            name: np.array(arrays[name])
            for name in ('chunk_start', 'chunk_stop', 'tick_ns', 'episode', 'instruction')
        }
        self._keyframes = {
            name: np.array(arrays[name])
            for name in ('keyframe_position', 'keyframe_gripper')
            if name in arrays
        }
        names = ObservationAssembler(cache.embodiment).state_names
        self._position = [names.index(n) for n in EE_POSITION if n in names]
        self._labels = {
            c.name: arrays[f'label_{c.name}']
            for c in cache.embodiment.cameras
            if f'label_{c.name}' in arrays
        }
        self.names = tuple(dict.fromkeys(n for e in cache.episodes for n in e.labels))
        self._name_of = _name_table(cache.episodes, self.names)
        self._moving = _moving_dims(cache.embodiment)

    @property
    def embodiment(self) -> Embodiment:
        return self.cache.embodiment

    @property
    def instructions(self) -> tuple[str, ...]:
        """Instruction texts, normalised; `instruction_id` of a batch counts into them."""
        return self.cache.instructions

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample: `get_batch` of one, without the leading B."""
        batch = self.get_batch([index])
        return {
            key: {name: v[0] for name, v in value.items()} if isinstance(value, dict) else value[0]
            for key, value in batch.items()
        }

    def get_batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Samples by their numbers in this split, 0 … len − 1.

        Returns:
            images: camera name -> (B, height, width, 3) uint8;
            state: (B, S) float32; action: (B, H, 7) float32, physical units;
            action_mask: (B, H) bool, False past the end of the episode (or a gap in it), where
            `action` repeats the last gripper command without motion;
            instruction_id, episode, tick: (B,) int64 (tick in ns);
            keyframe_position: (B, 3) float32, where the state has an end effector;
            keyframe_gripper: (B,) float32;
            labels: camera name -> (B, rows, columns) int64, what the pixels show: counted from 1
            into `names`, 0 nothing that has a name, −1 not known; of cameras that have any.
        """
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        action, mask = self._chunks(rows)
        batch: dict[str, Any] = {
            'images': {name: torch.from_numpy(a[rows]) for name, a in self.cache.images.items()},
            'state': torch.from_numpy(self._state[rows]),
            'action': torch.from_numpy(action),
            'action_mask': torch.from_numpy(mask),
            'instruction_id': torch.from_numpy(self._rows['instruction'][rows].astype(np.int64)),
            'episode': torch.from_numpy(self._rows['episode'][rows].astype(np.int64)),
            'tick': torch.from_numpy(self._rows['tick_ns'][rows]),
        }
        for name, array in self._keyframes.items():
            batch[name] = torch.from_numpy(array[rows])
        table = self._name_of[self._rows['episode'][rows]]  # (B, 256)
        batch['labels'] = {
            name: torch.from_numpy(np.take_along_axis(
                table, array[rows].reshape(len(rows), -1).astype(np.int64), axis=1
            ).reshape(len(rows), *array.shape[1:]))
            for name, array in self._labels.items()
        }  # fmt: skip
        return batch

    def _chunks(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, H, 7) actions and their (B, H) mask."""
        stop = self._rows['chunk_stop'][rows][:, None]  # (B, 1)
        steps = self._rows['chunk_start'][rows][:, None] + np.arange(self.horizon)  # (B, H)
        mask = steps < stop
        action = self._actions[np.minimum(steps, stop - 1)]  # (B, H, 7)
        if self._moving is not None:
            action[..., self._moving] *= mask[..., None]
        return action, mask

    def approach(self) -> np.ndarray:
        """Which samples (len,) bool come before the arm itself shows what it was told to do.

        True while the hand has more than half of the way to the episode's first keyframe before
        it; without keyframes, in the first quarter of the episode.
        """
        keyframe = self._keyframes.get('keyframe_position')
        parts = []
        for episode in self.episodes:
            rows = slice(episode.start, episode.stop)
            count = episode.stop - episode.start
            if keyframe is None:
                parts.append(np.arange(count) < max(1, count // 4))
                continue
            goal = keyframe[rows]
            way = np.linalg.norm(self._state[rows][:, self._position] - goal, axis=1)
            parts.append((goal == goal[0]).all(axis=1) & (way > 0.5 * way[0]))
        return np.concatenate(parts)

    def corrections(self) -> np.ndarray:
        """Which samples (len,) bool were driven by a person who took over from the policy."""
        return self.cache.arrays['correction'][self.rows]

    def statistics(self) -> DatasetStatistics:
        """Of this split: take those of 'train' for a normaliser, lest it knows the other one."""
        actions = self._actions[self._rows['chunk_start'][self.rows]]
        low, high = np.quantile(actions.astype(np.float64), [0.01, 0.99], axis=0)
        state = self._state[self.rows].astype(np.float64)
        first = [self._rows['instruction'][episode.start] for episode in self.episodes]
        return DatasetStatistics(
            action_q01=tuple(low.tolist()),
            action_q99=tuple(high.tolist()),
            state_mean=tuple(state.mean(axis=0).tolist()),
            state_std=tuple(state.std(axis=0).tolist()),
            samples=len(self),
            episodes=len(self.episodes),
            instructions=dict(Counter(self.instructions[i] for i in first)),
            tasks=dict(Counter(episode.task for episode in self.episodes)),
        )


_NAMES = {False: 'train', True: 'val'}


def _name_table(episodes: Sequence[CachedEpisode], names: Sequence[str]) -> np.ndarray:
    """(E, 256) int64: an episode's own label ids → ids counted from 1 in `names`."""
    table = np.zeros((len(episodes), 256), np.int64)
    for row, episode in zip(table, episodes):
        row[1 : 1 + len(episode.labels)] = [1 + names.index(n) for n in episode.labels]
        row[NOT_KNOWN] = -1
    return table


def split_episodes(names: Sequence[str], val_fraction: float, seed: int) -> list[bool]:
    """For every episode whether it is for validation, by a seeded hash of its name.

    An episode keeps its side when others are added or removed. Only where the hash would leave
    one side empty, one episode is moved (never when there is just one, or with fraction 0).

    Raises:
        DatasetError: `val_fraction` is not in [0, 1).
    """
    if not 0 <= val_fraction < 1:
        raise DatasetError(f'val_fraction must be in [0, 1), got {val_fraction}')
    numbers = []
    for name in names:
        digest = hashlib.sha256(f'{seed}:{name}'.encode()).digest()
        numbers.append(int.from_bytes(digest[:8], 'big') / 2**64)
    chosen = [number < val_fraction for number in numbers]
    if val_fraction > 0 and len(names) > 1:
        if not any(chosen):
            chosen[numbers.index(min(numbers))] = True
        elif all(chosen):
            chosen[numbers.index(max(numbers))] = False
    return chosen


def _moving_dims(embodiment: Embodiment) -> np.ndarray | None:
    """The action dimensions that mean motion and are zero at rest; None where none does."""
    if embodiment.action.space == 'joint_position':
        return None  # repeating the last target is resting
    dims = np.arange(ACTION_DIM)
    return np.delete(dims, [d for d in (gripper_index(embodiment),) if d is not None])


# -- from folders -------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedDataset:
    """What `load_dataset` gives."""

    train: DemonstrationDataset
    val: DemonstrationDataset | None  # None with val_fraction 0 or a single episode
    statistics: DatasetStatistics  # of train
    skipped: dict[str, str]  # episode -> why it is not in

    @property
    def cache(self) -> DatasetCache:
        return self.train.cache

    @property
    def embodiment(self) -> Embodiment:
        return self.train.embodiment


def load_dataset(
    roots: Iterable[Path | str],
    *,
    horizon: int = 8,
    val_fraction: float = 0.1,
    seed: int = 0,
    embodiment: Embodiment | None = None,
    lerobot_keys: LeRobotKeys | None = None,
    cache_dir: Path | str | None = None,
    only_successful: bool = True,
    skip_bad: bool = False,
    workers: int = 1,
    progress: bool = True,
) -> LoadedDataset:
    """Folders of episodes → samples to train on.

    Args:
        roots: folders to search for episodes, single episodes, lists of them (`find_episodes`), or
            `lerobot:FOLDER`.
        horizon: steps of an action chunk, H.
        val_fraction, seed: see `split_episodes`.
        embodiment: to read the bags with, instead of the one they name.
        lerobot_keys: which feature is what in a LeRobot folder, where the names do not tell.
        cache_dir: default is a hidden folder in the first root, or beside a list's first episode.
        only_successful: leave out episodes that are marked as failed.
        skip_bad: leave out damaged episodes with a warning, instead of raising.
        workers: processes that build the cache; 0: as many as cores and recordings are worth.
        progress: show a bar while it is built.

    Raises:
        DatasetError: nothing to train on, mixed embodiments, or damaged episodes.
    """
    roots = list(roots)
    episodes, skipped = find_sources(roots, embodiment, lerobot_keys, skip_bad)
    if embodiment is None:
        embodiment = common_embodiment(episodes)
    if only_successful:
        failed = [episode for episode in episodes if episode.info.success is False]
        skipped.update({str(episode.info.path): 'marked as failed' for episode in failed})
        episodes = [episode for episode in episodes if episode.info.success is not False]
    if not episodes:
        raise DatasetError(f'none of {len(skipped)} episodes can be used: {skipped}')
    shared = folder_of(roots[0])
    if shared.is_file():  # a list
        shared = folder_of(episodes[0].info.path.parent)
    cache = build_cache(
        episodes,
        embodiment,
        Path(cache_dir) if cache_dir is not None else shared / CACHE_FOLDER,
        skip_bad=skip_bad,
        workers=workers,
        progress=progress,
    )
    train = DemonstrationDataset(cache, 'train', horizon, val_fraction, seed)
    val = None
    if val_fraction > 0 and len(cache.episodes) > 1:
        val = DemonstrationDataset(cache, 'val', horizon, val_fraction, seed)
    return LoadedDataset(train, val, train.statistics(), {**skipped, **cache.skipped})
