"""A LeRobot folder as it is written: a frame at a time, in flat memory, whole or not at all.

Everything goes into a hidden `.NAME.partial` beside the target, which takes its place when all of
it is on the disk. A file is closed, and the next one begun, where the next episode would make it
larger than LeRobot's limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import shutil
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_alignment_ros.data.files import fsync
from vla_alignment_ros.data.lerobot import layout
from vla_alignment_ros.data.lerobot.columns import (
    describe_features,
    episode_table,
    frame_table,
    ParquetFiles,
    SCALARS,
    task_table,
)
from vla_alignment_ros.data.lerobot.statistics import ImageStats, merge, of_rows, Stats
from vla_alignment_ros.data.lerobot.video import VideoFiles
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import DatasetError

EPISODES_AT_ONCE = 50  # rows of the table of episodes that wait in memory
MB = 1 << 20


@dataclass(frozen=True)
class Options:
    """How a folder is written."""

    codec: str = 'h264'
    crf: int | None = None  # quality; None: the codec's own
    data_file_mb: int = layout.DATA_FILE_MB
    video_file_mb: int = layout.VIDEO_FILE_MB


@dataclass(frozen=True)
class Frames:
    """The numbers of one episode. T frames, S state width."""

    ticks_ns: np.ndarray  # (T,) int64
    state: np.ndarray  # (T, S) float32
    action: np.ndarray  # (T, 7) float32
    correction: np.ndarray  # (T,) bool: a person had taken over from the policy
    texts: list[str]  # (T,) instruction as it was said
    own: dict[str, Any] = field(default_factory=dict)  # layout.OWN_COLUMNS -> value


class LeRobotWriter:
    """Writes one folder; a context manager. Leaving it without `finish` removes what there is.

    Args:
        root: the folder to be; must not exist.
        embodiment: of all episodes.
        state_names: of the S numbers of a state.
        options: codec and sizes.

    Raises:
        DatasetError: the target exists, or the robot has no whole number of frames a second.
        ConfigError: an unknown codec or quality.
    """

    def __init__(
        self,
        root: Path,
        embodiment: Embodiment,
        state_names: tuple[str, ...],
        options: Options | None = None,
    ) -> None:
        o = self._options = options or Options()
        if embodiment.rate_hz != round(embodiment.rate_hz):
            raise DatasetError(
                f'LeRobot counts whole frames a second, embodiment {embodiment.name!r} has '
                f'rate_hz {embodiment.rate_hz:g}: read the bags with an embodiment that has one'
            )
        self.root, self.fps = root, int(embodiment.rate_hz)
        self.episodes = self.frames = 0
        self._embodiment = embodiment
        self._features = describe_features(embodiment, state_names)
        self._partial = partial = root.parent / f'.{root.name}.partial'
        self._videos = {
            key: VideoFiles(
                partial, key, tuple(feature['shape'][:2]), self.fps, o.codec, o.crf,
                o.video_file_mb * MB,
            )
            for key, feature in self._features.items()
            if feature['dtype'] == 'video'
        }  # fmt: skip
        self._data = ParquetFiles(partial, layout.DATA, o.data_file_mb * MB)
        self._episodes = ParquetFiles(partial, layout.EPISODES, o.data_file_mb * MB)
        self._rows: list[dict[str, Any]] = []  # of the table of episodes, not yet written
        self._tasks: dict[str, int] = {}
        self._stats: dict[str, Stats] = {}
        self._image_stats: dict[str, ImageStats] = {}
        self._claim()
        self._open = True

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open:
            self._open = False
            for part in (self._data, self._episodes, *self._videos.values()):
                part.abort()
            shutil.rmtree(self._partial, ignore_errors=True)

    def begin(self, frames: int) -> None:
        """An episode of that many frames begins."""
        self._image_stats = {key: ImageStats(frames) for key in self._videos}
        for video in self._videos.values():
            video.begin()

    def add(self, images: Mapping[str, np.ndarray]) -> None:
        """The images of the next frame: camera name -> (height, width, 3) uint8."""
        for camera, image in images.items():
            key = f'{layout.IMAGES}{camera}'
            self._videos[key].add(image)
            self._image_stats[key].add(image)

    def end(self, frames: Frames) -> None:
        """The episode that was begun is over; these are its numbers."""
        count = len(frames.ticks_ns)
        scalars = {
            'timestamp': np.arange(count) / self.fps,
            'frame_index': np.arange(count),
            'episode_index': np.full(count, self.episodes),
            'index': self.frames + np.arange(count),
            'task_index': [self._tasks.setdefault(t, len(self._tasks)) for t in frames.texts],
            layout.INTERVENTION: frames.correction,
            layout.TICK: frames.ticks_ns,
        }
        arrays = {layout.ACTION: frames.action, layout.STATE: frames.state}
        arrays |= {name: np.asarray(scalars[name], dtype) for name, dtype in SCALARS.items()}
        row: dict[str, Any] = {
            'episode_index': self.episodes,
            'tasks': list(dict.fromkeys(frames.texts)),
            'length': count,
            'dataset_from_index': self.frames,
            'dataset_to_index': self.frames + count,
        }
        with self._writing():
            row |= self._data.write(frame_table(arrays), 'data')
        for video in self._videos.values():
            row |= video.end()
        stats = {key: of_rows(array) for key, array in arrays.items()}
        stats |= {key: images.result() for key, images in self._image_stats.items()}
        for key, found in stats.items():
            self._stats[key] = merge(self._stats.get(key), found)
            row |= {f'stats/{key}/{name}': value.tolist() for name, value in found.items()}
        self._rows.append(row | {name: frames.own.get(name) for name in layout.OWN_COLUMNS})
        self.episodes += 1
        self.frames += count
        if len(self._rows) >= EPISODES_AT_ONCE:
            self._flush()

    def finish(self) -> Path:
        """Make the folder durable and visible; it is returned.

        Raises:
            DatasetError: nothing was written, the disk is full, or the name was taken meanwhile.
        """
        if not self.episodes:
            raise DatasetError(f'no episode to write into {self.root}')
        self._flush()
        for video in self._videos.values():
            video.close()
        with self._writing():
            self._data.close()
            self._episodes.close()
            self._write_meta()
            for folder, _, files in os.walk(self._partial):
                for name in (*files, '.'):
                    fsync(Path(folder, name))
            self._refuse_existing()
            os.rename(self._partial, self.root)
            self._open = False
            fsync(self.root.parent)
        return self.root

    def _claim(self) -> None:
        self._refuse_existing()
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._partial.mkdir()
        except FileExistsError:
            raise DatasetError(
                f'{self._partial} exists: this folder is being written, or writing it crashed; '
                f'remove it, or choose another name'
            ) from None
        except OSError as error:
            raise DatasetError(f'cannot write {self.root}: {error}') from error

    def _refuse_existing(self) -> None:
        if self.root.exists():
            raise DatasetError(f'{self.root} exists already; it is not overwritten')

    def _flush(self) -> None:
        if not self._rows:
            return
        table, self._rows = episode_table(self._rows), []
        with self._writing():
            # every row says in which file it lies itself
            for name, number in self._episodes.place(table.nbytes, 'meta/episodes').items():
                column = pa.array([number] * len(table), pa.int64())
                table = table.append_column(name, column)
            self._episodes.append(table)

    def _write_meta(self) -> None:
        for key, video in self._videos.items():
            self._features[key]['info'] = video.description()
        info = {
            'codebase_version': layout.VERSION,
            'robot_type': self._embodiment.name,
            'total_episodes': self.episodes,
            'total_frames': self.frames,
            'total_tasks': len(self._tasks),
            'chunks_size': layout.FILES_PER_CHUNK,
            'data_files_size_in_mb': self._options.data_file_mb,
            'video_files_size_in_mb': self._options.video_file_mb,
            'fps': self.fps,
            'splits': {'train': f'0:{self.episodes}'},
            'data_path': layout.DATA,
            'video_path': layout.VIDEO,
            'features': self._features,
        }
        stats = {
            key: {name: value.tolist() for name, value in found.items()}
            for key, found in self._stats.items()
        }
        own = {
            'format_version': layout.SIDECAR_VERSION,
            'embodiment': self._embodiment.to_dict(),
        }
        pq.write_table(task_table(self._tasks), self._partial / layout.TASKS)
        for name, data in ((layout.STATS, stats), (layout.SIDECAR, own), (layout.INFO, info)):
            text = json.dumps(data, indent=4, ensure_ascii=False)
            (self._partial / name).write_text(text, encoding='utf-8')

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f'cannot write {self.root}: {error}') from error
