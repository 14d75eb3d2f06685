"""`vla_bag export`: demonstrations in the layout of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from vla_alignment_ros.cli.console import printable
from vla_alignment_ros.data import lerobot
from vla_alignment_ros.data.source import common_embodiment, find_sources
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import DatasetError


def export(
    paths: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path,
    to: Literal['lerobot'] = 'lerobot',
    embodiment: str | None = None,
    codec: Literal['h264', 'av1'] = 'h264',
    crf: int | None = None,
    only_successful: bool = False,
    skip_bad: bool = False,
) -> int:
    """Write episodes as a LeRobot folder (LeRobotDataset v3.0).

    Actions, stamps, instructions and verdicts come back from it as they are; images as the codec
    leaves them.

    Args:
        paths: Bags, or folders to search for them.
        out: The folder to be; must not exist.
        to: Whose layout.
        embodiment: Name or YAML file of the embodiment to read the bags with, instead of theirs.
        codec: h264: full colour, high quality; av1: as LeRobot records, smaller.
        crf: Quality of the codec: 0 best, 63 smallest (default: h264 10, av1 30).
        only_successful: Leave out episodes that are marked as failed.
        skip_bad: Leave out damaged episodes, and say so.
    """
    lerobot.require()
    from vla_alignment_ros.data.lerobot.export import export_lerobot
    from vla_alignment_ros.data.lerobot.writer import Options

    given = None if embodiment is None else Embodiment.load(embodiment)
    episodes, skipped = find_sources(paths, given, skip_bad=skip_bad)
    if only_successful:
        episodes = [episode for episode in episodes if episode.info.success is not False]
        if not episodes:
            raise DatasetError('every episode is marked as failed')
    robot = given or common_embodiment(episodes)
    done = export_lerobot(episodes, out, robot, Options(codec, crf), skip_bad)
    for reason in (*skipped.values(), *done.skipped.values()):
        print(printable(f'left out: {reason}'))
    if done.cut:
        print(printable(f'cut where ticks are missing: {", ".join(done.cut)}'))
    print(
        f'{out}: {done.episodes} episodes of {done.bags} bags, {done.frames} frames at '
        f'{robot.rate_hz:g} Hz'
    )
    return 0
