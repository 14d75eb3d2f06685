"""`vla_bag play-sheet`: an episode at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console
import tyro

from vla_alignment_ros.cli.bag_paths import chosen_episodes
from vla_alignment_ros.data.files import write_file
from vla_alignment_ros.errors import BagError, ConfigError


def play_sheet(
    path: tyro.conf.Positional[Path],
    /,
    out: Annotated[Path | None, tyro.conf.arg(metavar='PNG')] = None,
    moments: int = 8,
) -> int:
    """Draw an episode on one sheet: pictures over time, instruction, gripper and motion.

    Args:
        path: The episode.
        out: File for the picture; if not given, the episode's name beside the episode.
        moments: Pictures of each camera.
    """
    from vla_alignment_ros.evaluation.play_sheet import draw_play, read_play

    if not 1 <= moments <= 24:
        raise ConfigError(f'--moments must be 1…24, got {moments}')
    episodes = chosen_episodes([path])
    if len(episodes) > 1:
        raise BagError(f'{path} holds {len(episodes)} episodes; a sheet shows one: name it')
    episode = episodes[0].resolve()
    target = out or episode.with_name(f'{episode.name}.png')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, draw_play(read_play(episodes[0], moments)))
    except OSError as error:
        raise ConfigError(f'cannot write {target}: {error.strerror}') from error
    Console().print(f'sheet: {target}', highlight=False, soft_wrap=True, markup=False)
    return 0
