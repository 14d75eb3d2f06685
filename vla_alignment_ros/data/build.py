"""Filling a cache: episodes → arrays on disk, in one or several processes, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
import json
import logging
import multiprocessing
import os
from pathlib import Path
import threading
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from vla_alignment_ros.data.episode import EpisodeIndex, index_episode, keyframes, observations
from vla_alignment_ros.data.labels import label_names, label_shape, NOT_KNOWN, read_labels
from vla_alignment_ros.data.source import Episode
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import DatasetError
from vla_alignment_ros.observation import ObservationAssembler

CACHE_VERSION = 4  # raise it when the layout, or how a sample is made, changes
MANIFEST = 'manifest.json'
WORKER_BYTES = 512 * 2**20  # of recordings: reading them takes longer than starting a process
_LOG = logging.getLogger(__name__)
_T = TypeVar('_T')
_R = TypeVar('_R')


@dataclass(frozen=True)
class _Small:
    """What a worker hands back of one episode; the images are in the files by then."""

    state: np.ndarray  # (T, S)
    texts: list[str]  # (T,)
    keyframe_position: np.ndarray | None  # (T, 3)
    keyframe_gripper: np.ndarray  # (T,)
    labels: dict[str, np.ndarray]  # camera -> (T, rows, columns)


def fill(
    folder: Path,
    episodes: Sequence[Episode],
    embodiment: Embodiment,
    skip_bad: bool,
    workers: int,
    progress: bool,
) -> None:
    """Write every array and the manifest of these episodes into an empty folder.

    workers: processes to read with; 0: see `useful_workers`.

    Raises:
        DatasetError: an episode cannot be read and `skip_bad` is not set, or none can be read.
    """
    skipped: dict[str, str] = {}
    with (
        _mapper(min(workers or useful_workers(episodes), len(episodes))) as run,
        tqdm(total=2 * len(episodes), desc='dataset', unit='episode', disable=not progress) as bar,
    ):
        indices: list[EpisodeIndex] = []
        indexing = run(partial(_try, partial(index_episode, embodiment=embodiment)), episodes)
        for episode, result in zip(episodes, indexing):
            bar.update()
            if isinstance(result, DatasetError):
                _skip(episode.info.path, result, skipped, skip_bad)
            else:
                indices.append(result)
        if not indices:
            raise DatasetError(f'none of {len(episodes)} episodes can be read: {skipped}')
        starts = np.cumsum([0, *(len(index) for index in indices)]).tolist()
        for camera in embodiment.cameras:
            shape = (starts[-1], camera.height, camera.width, 3)
            _reserve(folder / f'image_{camera.name}.npy', shape)
        kept: list[tuple[int, EpisodeIndex, _Small]] = []
        jobs = list(zip(starts, indices))
        bar.total = len(episodes) + len(jobs)
        for (start, index), result in zip(jobs, run(partial(_try, partial(_load, folder)), jobs)):
            bar.update()
            if isinstance(result, DatasetError):
                _skip(index.info.path, result, skipped, skip_bad)
            else:
                kept.append((start, index, result))
    if not kept:
        raise DatasetError(f'none of {len(episodes)} episodes can be read: {skipped}')
    if skipped:
        _LOG.warning('%d of %d episodes are left out: %s', len(skipped), len(episodes), skipped)
    _save(folder, embodiment, starts[-1], kept, skipped)


def useful_workers(episodes: Sequence[Episode]) -> int:
    """How many processes are worth their start: by the size of the recordings, and the cores."""
    files = {path for episode in episodes for path in episode.files()}
    size = sum(path.stat().st_size for path in files)
    return min(len(os.sched_getaffinity(0)), 1 + size // WORKER_BYTES)


def _try(function: Callable[[_T], _R], argument: _T) -> _R | DatasetError:
    # an exception would end the whole map: whether to go on is decided by the caller
    try:
        return function(argument)
    except DatasetError as error:
        return error


def _skip(path: Path, error: DatasetError, skipped: dict[str, str], skip_bad: bool) -> None:
    if not skip_bad:
        raise DatasetError(f'{error}; remove the episode or set skip_bad') from error
    skipped[str(path)] = str(error)


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map` in this process, or in several, of which this is one."""
    if workers <= 1:
        yield map
        return
    helpers = workers - 1
    with (
        ProcessPoolExecutor(helpers, multiprocessing.get_context('spawn')) as pool,
        ThreadPoolExecutor(helpers) as threads,
    ):
        started = [pool.submit(os.getpid) for _ in range(helpers)]
        yield partial(_map_together, pool, threads, started)


def _map_together(
    pool: Executor,
    threads: Executor,
    started: Sequence[Future[int]],
    function: Callable[[_T], _R],
    arguments: Sequence[_T],
) -> Iterator[_R]:
    """Results in order; whoever is free takes the next argument, a helper or this process.

    Nothing waits for helpers to start, which takes as long as reading a short recording.
    """
    results: dict[int, Future[_R]] = {}
    todo = iter(enumerate(arguments))
    lock = threading.Lock()

    def feed(helper: Future[int]) -> None:
        if helper.exception() is not None:  # it could not start
            return
        while True:
            with lock:
                number, argument = next(todo, (None, None))
                if number is None:
                    return
                result = results[number] = pool.submit(function, argument)
            wait([result])

    try:
        for helper in started:
            threads.submit(feed, helper)
        for wanted in range(len(arguments)):
            while wanted not in results or not results[wanted].done():
                with lock:
                    number, argument = next(todo, (None, None))
                if number is None:
                    break
                made: Future[_R] = Future()
                made.set_result(function(argument))
                results[number] = made
            yield results.pop(wanted).result()
    finally:  # nobody asks for the rest
        with lock:
            todo = iter(())


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """A .npy file of the right size, to be filled in place by any process."""
    with open(path, 'wb') as file:
        np.lib.format.write_array_header_1_0(file, _image_header(shape))
        file.truncate(file.tell() + int(np.prod(shape)))


def _image_header(shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        'descr': np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
        'fortran_order': False,
        'shape': shape,
    }


def _load(folder: Path, job: tuple[int, EpisodeIndex]) -> _Small:
    """Read one episode: images straight into their files, the rest is returned."""
    start, index = job
    assembler = _assembler(index.embodiment)
    state = np.empty((len(index), assembler.state_dim), np.float32)
    texts = [''] * len(index)
    cameras = index.embodiment.cameras
    files = {c.name: open(folder / f'image_{c.name}.npy', 'r+b', buffering=0) for c in cameras}
    try:
        offsets = {name: _data_offset(file) for name, file in files.items()}
        for row, observation in observations(index, assembler):
            for name, image in observation.images.items():
                pixels = np.ascontiguousarray(image)
                place = offsets[name] + (start + row) * pixels.nbytes
                # not through a memory map: its dirty pages would count as this process's memory
                os.pwrite(files[name].fileno(), pixels.reshape(-1).data, place)
            state[row] = observation.state
            texts[row] = observation.instruction
    finally:
        for file in files.values():
            file.close()
    position, gripper = keyframes(index, state, assembler.state_names)
    return _Small(state, texts, position, gripper, read_labels(index))


_ASSEMBLERS: dict[str, ObservationAssembler] = {}


def _assembler(embodiment: Embodiment) -> ObservationAssembler:
    # compiling the kinematics takes longer than reading a short episode: once per process
    key = embodiment.digest()
    if key not in _ASSEMBLERS:
        _ASSEMBLERS.clear()
        _ASSEMBLERS[key] = ObservationAssembler(embodiment)
    return _ASSEMBLERS[key]


def _data_offset(file: Any) -> int:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return file.tell()


def _save(
    folder: Path,
    embodiment: Embodiment,
    rows: int,
    kept: Sequence[tuple[int, EpisodeIndex, _Small]],
    skipped: dict[str, str],
) -> None:
    """The small arrays and, last, the manifest. Rows of episodes left out stay zero, unused."""
    first = kept[0][2]
    state_names = _assembler(embodiment).state_names
    small: dict[str, np.ndarray] = {
        'state': np.zeros((rows, len(state_names)), np.float32),
        'chunk_start': np.zeros(rows, np.int64),
        'chunk_stop': np.zeros(rows, np.int64),
        'tick_ns': np.zeros(rows, np.int64),
        'episode': np.full(rows, -1, np.int32),
        'instruction': np.full(rows, -1, np.int32),
        'correction': np.zeros(rows, bool),
        'keyframe_gripper': np.zeros(rows, np.float32),
    }
    if first.keyframe_position is not None:
        small['keyframe_position'] = np.zeros((rows, 3), np.float32)
    for camera in embodiment.cameras:
        if any(camera.name in data.labels for _, _, data in kept):
            shape = (rows, *label_shape(camera.height, camera.width))
            small[f'label_{camera.name}'] = np.full(shape, NOT_KNOWN, np.uint8)
    table: dict[str, int] = {}
    episodes = []
    actions: list[np.ndarray] = []
    offset = 0
    for number, (start, index, data) in enumerate(kept):
        span = slice(start, start + len(index))
        small['state'][span] = data.state
        small['chunk_start'][span] = index.chunk_start + offset
        small['chunk_stop'][span] = index.chunk_stop + offset
        small['tick_ns'][span] = index.ticks_ns
        small['episode'][span] = number
        small['instruction'][span] = [table.setdefault(t, len(table)) for t in data.texts]
        small['correction'][span] = index.correction
        small['keyframe_gripper'][span] = data.keyframe_gripper
        if data.keyframe_position is not None:
            small['keyframe_position'][span] = data.keyframe_position
        for camera, labels in data.labels.items():
            small[f'label_{camera}'][span] = labels
        actions.append(index.actions)
        offset += len(index.actions)
        info = index.info
        episodes.append(
            {
                'name': info.name,
                'path': str(info.path),
                'instruction': info.instruction,
                'success': info.success,
                'extra': info.extra,
                'labels': label_names(info.extra, str(info.path)),
                'start': span.start,
                'stop': span.stop,
                'dropped': index.dropped,
            }
        )
    small['actions'] = np.concatenate(actions)
    for name, array in small.items():
        np.save(folder / f'{name}.npy', array, allow_pickle=False)
    shapes = {name: (list(a.shape), str(a.dtype)) for name, a in small.items()}
    for camera in embodiment.cameras:
        shape = [rows, camera.height, camera.width, 3]
        shapes[f'image_{camera.name}'] = (shape, 'uint8')
    manifest = {
        'version': CACHE_VERSION,
        'embodiment': embodiment.to_dict(),
        'state_names': list(state_names),
        'instructions': list(table),
        'episodes': episodes,
        'skipped': skipped,
        'arrays': shapes,
    }
    text = json.dumps(manifest, indent=1)
    (folder / MANIFEST).write_text(text, encoding='utf-8')
    for file in folder.iterdir():
        with open(file, 'rb') as handle:
            os.fsync(handle.fileno())
