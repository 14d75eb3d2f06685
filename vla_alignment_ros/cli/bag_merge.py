"""`vla_bag merge`: several folders of demonstrations as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console
import tyro

from vla_alignment_ros.cli.bag_paths import chosen_episodes
from vla_alignment_ros.cli.console import printable
from vla_alignment_ros.data.merge import do_merge, plan_merge


def merge(
    paths: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar='DIR')],
    copy: bool = False,
    dry_run: bool = False,
) -> int:
    """Bring episodes together in one folder, under names that differ.

    Copies of the same recording are left out and named. Episodes of different embodiments, and
    the same recording with two labels, are refused before anything is written. What is in the
    folder already stays, so that a merge can be repeated and added to.

    Args:
        paths: Episodes, or folders to search for them.
        out: Folder that receives the episodes.
        copy: Copy the files; else they are shared (hard links) where the file system can.
        dry_run: Only say what would happen.
    """
    plan = plan_merge(chosen_episodes(paths), out)
    console = Console()

    def say(text: str) -> None:
        console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    for path, same in plan.duplicates:
        say(f'left out: {path} is the same recording as {same}')
    for path, name in plan.copies:
        if name != path.name:
            say(f'{path} becomes {name}')
    linked = 0 if dry_run else do_merge(plan, link=not copy)
    count = len(plan.copies)
    how = 'would be merged' if dry_run else f'merged ({linked} linked, {count - linked} copied)'
    say(f'{count} episodes {how} into {out}, {len(plan.duplicates)} left out')
    return 0
