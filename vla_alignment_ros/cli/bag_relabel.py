"""`vla_bag relabel`: say anew what recorded demonstrations show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.table import Table
import tyro

from vla_alignment_ros.cli.bag_paths import chosen_episodes
from vla_alignment_ros.cli.console import plain
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.relabel import (
    apply_label,
    Change,
    Label,
    plan_label,
    plan_table,
    plan_undo,
    read_table,
)
from vla_alignment_ros.errors import BagError

_VERDICTS = {True: 'yes', False: 'no', None: '?'}


def relabel(
    paths: tyro.conf.Positional[tuple[Path, ...]],
    /,
    instruction: Annotated[str | None, tyro.conf.arg(metavar='TEXT')] = None,
    success: Literal['yes', 'no', 'unknown'] | None = None,
    table: Annotated[Path | None, tyro.conf.arg(metavar='FILE')] = None,
    undo: bool = False,
    dry_run: bool = False,
) -> int:
    """Set the instruction of episodes, or whether they succeeded. Messages are not touched.

    From then on the new instruction is the label of the whole episode, whatever was said in it;
    what it said before is kept in its note `relabelled`, for --undo. Notes that spoke of the old
    sentence (task, group, target, tray, side) go there too. Each episode is rewritten whole or not
    at all.

    Args:
        paths: Episodes, or folders to search for them.
        instruction: What all of these episodes show.
        success: Whether all of these episodes succeeded.
        table: CSV with the columns episode, instruction, success (and notes), or YAML that maps
            episodes to instructions: a label for each. `vla_bag check --report` writes one.
        undo: Take the newest relabelling of each episode back.
        dry_run: Only show what would change.
    """
    given = (table is not None, instruction is not None or success is not None, undo)
    if sum(given) != 1:
        raise BagError('give --instruction or --success, or a --table, or --undo: one of them')
    infos = [EpisodeReader(folder).info for folder in chosen_episodes(paths)]
    if table is not None:
        changes = plan_table(infos, read_table(table), str(table))
    elif undo:
        changes = [plan_undo(info) for info in infos]
    else:
        label = Label(instruction, success)
        changes = [plan_label(info, label) for info in infos]
    console = Console()
    wanted = [change for change in changes if change.custom]
    if wanted:
        console.print(change_table(wanted))
    if not dry_run:
        for change in wanted:
            apply_label(change)
    done = 'would be relabelled' if dry_run else 'relabelled'
    text = f'{len(wanted)} of {len(changes)} episodes {done}'
    if len(wanted) < len(changes):
        text += '; the others never were' if undo else '; the others say so already'
    console.print(text, highlight=False)
    return 0


def change_table(changes: Sequence[Change]) -> Table:
    """One line per episode: before and after."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    for name in ('episode', 'was', 'is', 'success'):
        table.add_column(name, overflow='fold')
    for change in changes:
        before, after = _VERDICTS[change.info.success], _VERDICTS[change.success]
        table.add_row(
            plain(change.info.name),
            plain(change.info.instruction),
            plain(change.instruction),
            after if after == before else f'{before} → {after}',
        )
    return table
