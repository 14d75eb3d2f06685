"""Where an episode is made and where it will be, and which recordings were cut off.

While it is recorded an episode lives in `.<name>.partial`, beside its final place:

    <name>/         the bag, without metadata.yaml until it is finished
    episode.json    what only the recorder knows: embodiment, instruction, notes
    lock            held with flock by the process that records, and free once that has ended

The bag moves to its final place in one step. So a folder without `.partial` is always whole, and
a `.partial` folder whose lock is free is a recording that was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
import fcntl
import json
import os
from pathlib import Path
import re
import shutil
from typing import Any

from vla_alignment_ros.data.bag_format import METADATA, sanitize_name
from vla_alignment_ros.data.bag_storage import SUFFIXES
from vla_alignment_ros.data.files import fsync, write_file
from vla_alignment_ros.errors import BagError

PARTIAL = '.partial'
COPY = '~recovering'  # before `.partial`; no name of an episode holds a tilde
ABOUT, LOCK = 'episode.json', 'lock'
MAX_ABOUT_BYTES = 16 << 20


class Place:
    """A reserved name: the folder in which an episode is made, locked, and its final place.

    Raises:
        BagError: the folder is there already.
        OSError: it cannot be made.
    """

    def __init__(self, final: Path, suffix: str = '') -> None:
        self.final = final
        self.partial = partial_of(final, suffix)
        self.partial.mkdir()
        self._lock: int | None = None
        try:
            self._lock = lock(self.partial, wait=True)  # for who looks whether it is free
        except OSError:
            shutil.rmtree(self.partial, ignore_errors=True)
            raise

    @property
    def bag(self) -> Path:
        """Where the bag is made."""
        return self.partial / self.final.name

    def describe(self, about: Mapping[str, Any]) -> None:
        """Keep beside the bag what it will only say at its end; replaces what was kept before."""
        write_file(self.partial / ABOUT, json.dumps(about).encode())

    def move(self) -> None:
        """Put the bag, which is on the disk, into its final place.

        Raises:
            BagError: something else is there.
        """
        if self.final.exists():
            raise BagError(f'{self.final} exists already; it is not overwritten')
        os.rename(self.bag, self.final)
        fsync(self.final.parent)

    def leave(self) -> None:
        """Give up the lock; what is there stays, for `vla_bag recover`."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.partial, ignore_errors=True)
        self.leave()


def partial_of(final: Path, suffix: str = '') -> Path:
    """The folder in which an episode is made."""
    return final.with_name(f'.{final.name}{suffix}{PARTIAL}')


def claim(root: Path, name: str | None) -> Place:
    """Reserve a name, or the next number.

    Raises:
        BagError: the name is taken.
        OSError: the folder cannot be made.
    """
    safe = sanitize_name(name) if name else ''
    if safe:
        final = root / safe
        if final.exists():
            raise BagError(f'{final} exists already; it is not overwritten, choose another name')
        try:
            return Place(final)
        except FileExistsError:
            raise BagError(
                f'{partial_of(final)} exists: this episode is being recorded, or its recording '
                f'was cut off; `vla_bag recover {root}` saves it, or choose another name'
            ) from None
    taken = [re.match(r'\.?episode_(\d{6,})_', entry.name) for entry in root.iterdir()]
    number = 1 + max((int(match[1]) for match in taken if match), default=-1)
    while True:
        utc = datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')
        final = root / f'episode_{number:06d}_{utc}'
        number += 1
        if not final.exists():
            with suppress(FileExistsError):
                return Place(final)


def lock(partial: Path, wait: bool = False) -> int | None:
    """Lock a `.partial` folder; the descriptor that holds the lock, None where files have none.

    Raises:
        BlockingIOError: a living process holds it.
    """
    descriptor = os.open(partial / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks: recording matters more
        os.close(descriptor)
        return None
    return descriptor


def is_recording(partial: Path) -> bool:
    """Whether a living process records into a `.partial` folder."""
    try:
        descriptor = os.open(partial / LOCK, os.O_RDONLY)
    except OSError:
        return False  # from before there were locks, or just gone
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def storage_files(folder: Path) -> list[Path]:
    """The files with messages in a folder, in the order of their numbers."""
    found = [file for file in folder.glob('*') if file.suffix in SUFFIXES.values()]
    return sorted(found, key=_number)


def bag_in(partial: Path) -> Path | None:
    """The bag in a `.partial` folder; None where it holds no messages."""
    found = (folder for folder in sorted(partial.glob('*')) if storage_files(folder))
    return next(found, None)


def _number(file: Path) -> tuple[int, str]:
    match = re.search(r'_(\d+)$', file.stem)
    return (int(match[1]) if match else 0), file.name


def unfinished(root: Path) -> list[Path]:
    """`.partial` folders directly in `root` that hold messages and that nobody records into."""
    if not root.is_dir():
        return []
    return sorted(
        folder
        for folder in root.glob(f'.*{PARTIAL}')
        if not folder.name.endswith(f'{COPY}{PARTIAL}')
        and bag_in(folder)
        and not is_recording(folder)
    )


def remove_shells(root: Path) -> None:
    """Remove what is left around episodes whose recorder ended between their end and its own."""
    for shell in root.glob(f'.*{PARTIAL}') if root.is_dir() else ():
        final = shell.with_name(shell.name.removeprefix('.').removesuffix(PARTIAL))
        if (final / METADATA).is_file() and not bag_in(shell) and not is_recording(shell):
            shutil.rmtree(shell, ignore_errors=True)


def read_about(partial: Path) -> dict[str, Any]:
    """What `Place.describe` wrote; empty where there is none.

    Raises:
        BagError: it is damaged.
    """
    file = partial / ABOUT
    try:
        if file.stat().st_size > MAX_ABOUT_BYTES:
            raise BagError(f'{file} is larger than {MAX_ABOUT_BYTES >> 20} MiB')
        about = json.loads(file.read_text(encoding='utf-8'))
        if not isinstance(about, dict):
            raise BagError(f'{file} is damaged: a mapping was expected')
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BagError(f'{file} is damaged: {error!r}') from error
    return about
