"""`vla_bag trim`: cut idle time from the start and the end of demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import sys
from typing import Annotated

from rich.console import Console
from rich.table import Table
import tyro

from vla_alignment_ros.cli.bag_paths import chosen_episodes
from vla_alignment_ros.cli.console import NEWLINE, plain, printable
from vla_alignment_ros.data.activity import Stillness
from vla_alignment_ros.data.trim import Cut, plan_cut, write_cut
from vla_alignment_ros.errors import BagError

_STILL = Stillness()


def trim(
    paths: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Annotated[Path | None, tyro.conf.arg(metavar='DIR')] = None,
    margin_s: float = 0.5,
    still: Annotated[Stillness, tyro.conf.arg(name='')] = _STILL,
    dry_run: bool = False,
) -> int:
    """Cut the start and the end in which no joint moves and nothing is commanded.

    What is left goes into new episodes, and the originals stay; episodes without idle time are
    copied as they are. The instruction and every latched topic still hold in what is left. Exit
    code 1 if an episode cannot be trimmed; it is named and left out.

    Args:
        paths: Episodes, or folders to search for them.
        out: Folder for the trimmed episodes, under their own names.
        margin_s: Idle time that is kept on both sides, seconds.
        still: What counts as standing still.
        dry_run: Only show what would be cut.
    """
    if out is None and not dry_run:
        raise BagError('give --out, the folder for what is left; --dry-run only shows what is cut')
    if margin_s < 0:
        raise BagError(f'--margin-s must not be negative, got {margin_s:g}')
    folders = chosen_episodes(paths)
    if out is not None and not dry_run:
        _check_free(folders, out)
    console = Console()
    cuts: list[Cut] = []
    failed = 0
    for folder in folders:
        try:
            cut = plan_cut(folder, still, margin_s)
            if out is not None and not dry_run:
                write_cut(cut, out / folder.name)
            cuts.append(cut)
        except BagError as error:
            failed += 1
            print(f'vla_bag trim: {printable(str(error), keep=NEWLINE)}', file=sys.stderr)
    shown = [cut for cut in cuts if cut.any]
    if shown:
        console.print(cut_table(shown))
    lost_s = sum(cut.before_s + cut.after_s for cut in cuts)
    done = 'would be cut' if dry_run else 'cut'
    text = (
        f'{lost_s:.1f} of {sum(cut.duration_s for cut in cuts):.1f} s {done}, '
        f'in {len(shown)} of {len(folders)} episodes'
    )
    console.print(text + (f'; {failed} cannot be trimmed' if failed else ''), highlight=False)
    return 1 if failed else 0


def cut_table(cuts: Sequence[Cut]) -> Table:
    """One line per episode: what is cut and what is left, in seconds."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('episode', overflow='fold')
    for name in ('start cut s', 'end cut s', 'left s'):
        table.add_column(name, justify='right')
    for cut in cuts:
        values = (cut.before_s, cut.after_s, cut.left_s)
        table.add_row(plain(cut.path.name), *(f'{value:.1f}' for value in values))
    return table


def _check_free(folders: Sequence[Path], out: Path) -> None:
    """Fail before anything is written, not in the middle."""
    names = [folder.name for folder in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BagError(f'{twice[0]} is the name of several episodes: trim their folders apart')
    there = [name for name in names if (out / name).exists()]
    if there:
        raise BagError(f'{out / there[0]} exists already; it is not overwritten')
