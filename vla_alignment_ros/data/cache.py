"""All samples of a set of episodes in memory-mapped arrays, made once.

A cache is a folder with one `.npy` file per array and a `manifest.json`. Its name holds a digest
of everything it depends on (which files, their sizes and times of change, the embodiment, the
layout), so a change of any of these makes another cache. It is built in a hidden folder and
renamed when complete; while one process builds, others wait for it.

Arrays (N samples and A actions of all episodes; an episode's rows are consecutive):

    image_<camera>     (N, height, width, 3) uint8 RGB
    state              (N, S) float32
    actions            (A, 7) float32, physical units
    chunk_start        (N,) int64 into actions: the action that answers the sample
    chunk_stop         (N,) int64 into actions: where its chunk must end
    tick_ns            (N,) int64
    episode            (N,) int32 into manifest episodes
    instruction        (N,) int32 into manifest instructions
    correction         (N,) bool: a person had taken over from the policy
    keyframe_position  (N, 3) float32, m; absent where the state has no end effector
    keyframe_gripper   (N,) float32, 0..1
    label_<camera>     (N, rows, columns) uint8: see `labels`; absent where nobody knew
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import fcntl
import hashlib
import json
import logging
import os
from pathlib import Path
import shutil
from typing import Any

import numpy as np

from vla_alignment_ros.data.build import CACHE_VERSION, fill, MANIFEST
from vla_alignment_ros.data.source import Episode, open_episode
from vla_alignment_ros.embodiment import Embodiment, resolve_resource
from vla_alignment_ros.errors import DatasetError, VlaError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedEpisode:
    """One episode of a cache: what it says about itself, and where its rows are."""

    name: str
    path: str
    instruction: str
    success: bool | None
    extra: dict[str, str]  # task, seed, split, … as recorded
    start: int  # rows [start, stop)
    stop: int
    dropped: dict[str, int]  # reason -> ticks without a sample
    labels: tuple[str, ...] = ()  # names of the ids 1, 2, … in label_<camera>

    @property
    def task(self) -> str:
        return self.extra.get('task', '')


class DatasetCache:
    """A finished cache, memory-mapped read-only. Made by `build_cache`.

    Raises:
        DatasetError: not a cache, of another version, or a file is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding='utf-8'))
            if manifest['version'] != CACHE_VERSION:
                raise DatasetError(f'cache {self.path} has version {manifest["version"]}')
            self.embodiment = Embodiment.from_dict(manifest['embodiment'])
            self.state_names: tuple[str, ...] = tuple(manifest['state_names'])
            self.instructions: tuple[str, ...] = tuple(manifest['instructions'])
            self.episodes = tuple(_episode(item) for item in manifest['episodes'])
            self.skipped: dict[str, str] = dict(manifest['skipped'])  # path -> reason
            self.arrays: dict[str, np.ndarray] = {}
            for name, (shape, dtype) in manifest['arrays'].items():
                array = np.load(self.path / f'{name}.npy', mmap_mode='r', allow_pickle=False)
                if array.shape != tuple(shape) or str(array.dtype) != dtype:
                    raise DatasetError(f'cache {self.path}: {name}.npy is not what it should be')
                # a plain view: memory-mapped all the same, without the subclass on every slice
                self.arrays[name] = array.view(np.ndarray)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f'cache {self.path} is damaged ({error}); remove it, it is made again'
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        # data loader processes map the files again instead of copying them
        return DatasetCache, (self.path,)

    def __len__(self) -> int:
        return len(self.arrays['tick_ns'])

    @property
    def images(self) -> dict[str, np.ndarray]:
        """Camera name -> (N, height, width, 3) uint8."""
        return {c.name: self.arrays[f'image_{c.name}'] for c in self.embodiment.cameras}

    @property
    def state_dim(self) -> int:
        return len(self.state_names)


def _episode(item: dict[str, Any]) -> CachedEpisode:
    return CachedEpisode(**{**item, 'labels': tuple(item['labels'])})


def build_cache(
    episodes: Sequence[Episode | Path],
    embodiment: Embodiment,
    cache_dir: Path,
    *,
    skip_bad: bool = False,
    workers: int = 1,
    progress: bool = True,
) -> DatasetCache:
    """The cache of these episodes: the one that exists if nothing changed, else a new one.

    A cache that this one replaces (same folders of episodes, same embodiment) is removed.

    Args:
        episodes: or the paths of bags; their order is the order of the rows.
        skip_bad: leave damaged episodes out, with one warning, instead of raising.
        workers: processes to read with; 0: as many as cores and recordings are worth.
        progress: show a progress bar.

    Raises:
        DatasetError: no episode, a damaged one, or bags that change while they are read.
    """
    if not episodes:
        raise DatasetError('no episodes to build a dataset from')
    episodes = [open_episode(e.resolve()) if isinstance(e, Path) else e for e in episodes]
    folders = sorted({str(episode.info.path.parent) for episode in episodes})
    scope = _digest(folders, embodiment.digest())[:12]
    name = f'{scope}-{_fingerprint(episodes, embodiment, skip_bad)[:20]}'
    cache_dir = Path(cache_dir)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _only_builder(cache_dir / f'.{scope}.lock'):
            found = _open_if_whole(cache_dir / name)
            if found is not None:
                return found
            building = cache_dir / f'.building-{scope}'
            for old in (building, *cache_dir.glob(f'{scope}-*')):
                shutil.rmtree(old, ignore_errors=True)
            building.mkdir()
            try:
                fill(building, episodes, embodiment, skip_bad, workers, progress)
                if name != f'{scope}-{_fingerprint(episodes, embodiment, skip_bad)[:20]}':
                    raise DatasetError('bags changed while they were read; start again')
                os.rename(building, cache_dir / name)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise DatasetError(f'cannot build the cache in {cache_dir}: {error}') from error
    return DatasetCache(cache_dir / name)


# -- what a cache depends on --------------------------------------------------------------------


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _fingerprint(episodes: Sequence[Episode], embodiment: Embodiment, skip_bad: bool) -> str:
    """Everything a cache depends on: episodes by name, size and time of change of their files."""
    stamps: dict[Path, tuple[str, int, int]] = {}  # episodes of a LeRobot folder share files
    sources = []
    for episode in episodes:
        files = episode.files()
        for path in files:
            if path not in stamps:
                stat = path.stat()
                stamps[path] = (path.name, stat.st_size, stat.st_mtime_ns)
        state = sorted(stamps[path] for path in files)
        sources.append((str(episode.info.path), episode.reading, state))
    # the end-effector part of the state is computed from the robot's model
    urdf = resolve_resource(embodiment.urdf).read_bytes() if embodiment.urdf else b''
    model = hashlib.sha256(urdf).hexdigest()
    return _digest(CACHE_VERSION, embodiment.digest(), model, skip_bad, sources)


@contextmanager
def _only_builder(lock: Path) -> Iterator[None]:
    """Wait until no other process builds this cache; the system frees the lock of a dead one."""
    with open(lock, 'w', encoding='utf-8') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open_if_whole(path: Path) -> DatasetCache | None:
    if not path.is_dir():
        return None
    try:
        return DatasetCache(path)
    except VlaError as error:
        _LOG.warning('making the cache again: %s', error)
        return None
