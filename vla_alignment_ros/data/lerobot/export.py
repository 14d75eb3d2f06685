"""Bags → a LeRobot folder: the samples that training sees, one after the other.

A frame is a sample: images and state as-of the tick, the action that answers it, the instruction
as it was said. LeRobot knows no gaps: where ticks are missing (a command, or an image that was too
old), the episode is cut, and each part becomes an episode of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vla_alignment_ros import wire
from vla_alignment_ros.data import align
from vla_alignment_ros.data.episode import EpisodeIndex, index_episode, observations
from vla_alignment_ros.data.lerobot.writer import Frames, LeRobotWriter, Options
from vla_alignment_ros.data.source import Episode
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import DatasetError
from vla_alignment_ros.observation import (
    MAX_INSTRUCTION_CHARS,
    Observation,
    ObservationAssembler,
)


@dataclass
class Exported:
    """What an export wrote."""

    root: Path
    bags: int = 0
    episodes: int = 0
    frames: int = 0
    cut: list[str] = field(default_factory=list)  # bags that became several episodes
    skipped: dict[str, str] = field(default_factory=dict)  # path -> why it is not in


def export_lerobot(
    episodes: Sequence[Episode],
    root: Path,
    embodiment: Embodiment,
    options: Options | None = None,
    skip_bad: bool = False,
    progress: bool = True,
) -> Exported:
    """Write a folder from episodes.

    Args:
        root: the folder to be; must not exist.
        embodiment: to read all of them with.
        skip_bad: leave out damaged episodes, instead of raising; each is read once more for it.
        progress: show a bar.

    Raises:
        DatasetError: an episode is damaged, the target exists, or it cannot be written.
    """
    assembler = ObservationAssembler(embodiment)
    done = Exported(root)
    with LeRobotWriter(root, embodiment, assembler.state_names, options) as writer:
        for episode in tqdm(episodes, desc='export', unit='episode', disable=not progress):
            try:
                index = index_episode(episode, embodiment)
                if skip_bad:  # all of it: a frame in a video cannot be taken back
                    for _ in observations(index, assembler):
                        pass
            except DatasetError as error:
                if not skip_bad:
                    raise DatasetError(f'{error}; remove the episode or use --skip-bad') from error
                done.skipped[str(episode.info.path)] = str(error)
                continue
            if _write(writer, index, assembler) > 1:
                done.cut.append(episode.info.name)
            done.bags += 1
        writer.finish()
    done.episodes, done.frames = writer.episodes, writer.frames
    return done


def _write(writer: LeRobotWriter, index: EpisodeIndex, assembler: ObservationAssembler) -> int:
    """Write one episode; into how many it was cut."""
    stops = np.unique(align.segment_stops(index.ticks_ns, index.embodiment.rate_hz))
    texts = _texts(index)
    in_order = _in_order(observations(index, assembler))
    start = 0
    for part, stop in enumerate(stops.tolist()):
        rows = slice(start, stop)
        writer.begin(stop - start)
        states = []
        for _ in range(start, stop):
            observation = next(in_order)
            writer.add(observation.images)
            states.append(observation.state)
        frames = Frames(
            ticks_ns=index.ticks_ns[rows],
            state=np.stack(states),
            action=index.actions[index.chunk_start[rows]],
            correction=index.correction[rows],
            texts=texts[rows],
            own=_own(index, part if len(stops) > 1 else None),
        )
        writer.end(frames)
        start = stop
    return len(stops)


def _own(index: EpisodeIndex, part: int | None) -> dict[str, Any]:
    info = index.info
    return {
        'vla/name': info.name if part is None else f'{info.name}.{part}',
        'vla/success': info.success,
        'vla/instruction': info.instruction,
        'vla/extra': json.dumps(info.extra, sort_keys=True),
    }


def _texts(index: EpisodeIndex) -> list[str]:
    """The instruction of every sample, as it was said (not normalised)."""
    said = [wire.decode_string(raw)[:MAX_INSTRUCTION_CHARS] for raw in index.instructions]
    return [said[pick] for pick in index.picks[index.embodiment.instruction_topic]]


def _in_order(found: Iterator[tuple[int, Observation]]) -> Iterator[Observation]:
    """Observations by row; one that came early waits for those before it."""
    waiting: dict[int, Observation] = {}
    row = 0
    for number, observation in found:
        waiting[number] = observation
        while row in waiting:
            yield waiting.pop(row)
            row += 1
