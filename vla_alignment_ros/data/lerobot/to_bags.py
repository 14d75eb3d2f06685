"""A LeRobot folder → a rosbag per episode, for everything that works on bags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from vla_alignment_ros.data.bag import EpisodeWriter
from vla_alignment_ros.data.source import Episode
from vla_alignment_ros.errors import ControlError, DatasetError, WireError


def import_bags(
    episodes: Sequence[Episode],
    out: Path,
    storage: str = 'mcap',
    compression: str | None = None,
    progress: bool = True,
) -> list[Path]:
    """Write the messages of every episode as a bag; their folders are returned.

    Images go in as they decode: a bag is many times as large as the video.

    Args:
        out: receives a folder per episode; none of them may exist.
        storage, compression: see `EpisodeWriter`.

    Raises:
        BagError: a bag exists already, or cannot be written.
        DatasetError: the folder is damaged; the episode is named. Those before it are there.
    """
    paths = []
    for episode in tqdm(episodes, desc='import', unit='episode', disable=not progress):
        info = episode.info
        with EpisodeWriter(
            out, info.embodiment, info.name, storage=storage, compression=compression
        ) as writer:
            try:
                for topic, msgtype, ts_ns, raw in episode.messages():
                    writer.write(topic, msgtype, ts_ns, raw)
            except (ControlError, DatasetError, WireError) as error:
                raise DatasetError(f'episode {info.path}: {error}') from error
            writer.set_instruction(info.instruction)
            paths.append(writer.finish(info.success, info.extra))
    return paths
