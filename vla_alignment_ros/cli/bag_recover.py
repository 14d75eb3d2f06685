"""`vla_bag recover`: whole bags from recordings that were cut off."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
import tyro

from vla_alignment_ros.cli.console import NEWLINE, plain, printable
from vla_alignment_ros.data.recover import find_damaged, recover_recording, Recovered
from vla_alignment_ros.errors import BagError


def recover(paths: tyro.conf.Positional[tuple[Path, ...]], /) -> int:
    """Make whole bags of recordings that were cut off: by a kill, a full disk, a power failure.

    What can be read becomes a bag beside the old one, with success unknown and the note
    `recovered`; then the unfinished folder of a recorder is removed, and a bag that somebody
    else recorded stays as it is. Exit code 1 if something could not be recovered; it is named.

    Args:
        paths: Recordings (`.<name>.partial` or the folder of a bag), or folders to search.
    """
    if not paths:
        raise BagError('give a recording that was cut off, or a folder of recordings')
    sources = list(dict.fromkeys(found for path in paths for found in find_damaged(path)))
    console = Console()
    failed = False
    for source in sources:
        try:
            console.print(describe(recover_recording(source)), highlight=False, soft_wrap=True)
        except BagError as error:
            failed = True
            text = printable(str(error), keep=NEWLINE)
            console.print(text, style='red', markup=False, highlight=False, soft_wrap=True)
    if not sources:
        where = ', '.join(plain(str(path)) for path in paths)
        console.print(f'nothing was cut off in {where}', highlight=False, soft_wrap=True)
    return 1 if failed else 0


def describe(done: Recovered) -> str:
    """One line, and one for each topic of a bag that was made now."""
    source, path = plain(done.source.name), plain(str(done.path))
    if not done.new:
        if done.source == done.path:
            return f'{path} is whole'
        return f'{source}: {path} was made of it before'
    lines = [f'{source}: saved {sum(done.counts.values())} messages in {path}']
    lines += [f'  {plain(topic)} {count}' for topic, count in sorted(done.counts.items())]
    return '\n'.join(lines)
