"""Several folders of episodes as one: names made unique, copies of the same recording left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import os
from pathlib import Path
import shutil
import tempfile

from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.bag_format import EpisodeInfo, METADATA, sanitize_name
from vla_alignment_ros.data.content import content_digest
from vla_alignment_ros.data.files import fsync
from vla_alignment_ros.errors import BagError
from vla_alignment_ros.observation import normalize_instruction


@dataclass(frozen=True)
class Merge:
    """What a merge does."""

    out: Path
    copies: tuple[tuple[Path, str], ...]  # episode, its name in `out`
    duplicates: tuple[tuple[Path, Path], ...]  # episode that is left out, the one it equals


def plan_merge(episodes: Sequence[Path], out: Path) -> Merge:
    """What merging episodes into a folder does; nothing is written.

    What is in the folder already counts as merged, so that a merge can be repeated and added to.

    Raises:
        BagError: an episode is damaged, two are of different embodiments, or the same recording
            has two labels.
    """
    there = find_episodes(out) if out.is_dir() else []
    inside = {path.resolve() for path in there}
    new = [path for path in episodes if path.resolve() not in inside]
    infos = [EpisodeReader(path).info for path in (*there, *new)]
    _check_embodiments(infos)
    same_as = _copies(infos)
    taken = {path.name for path in there}
    if out.is_dir():
        taken |= {entry.name for entry in out.iterdir()}
    copies, duplicates = [], []
    for path in new:
        if path in same_as:
            duplicates.append((path, same_as[path]))
            continue
        name = _unique(path, taken)
        taken.add(name)
        copies.append((path, name))
    return Merge(out, tuple(copies), tuple(duplicates))


def do_merge(merge: Merge, link: bool) -> int:
    """Bring the episodes into the folder, each whole or not at all.

    Args:
        merge: as planned.
        link: share the files with messages instead of copying them, where both are on one file
            system. Nobody writes into them; what is written into later, the metadata, is copied.

    Returns:
        How many share their messages.

    Raises:
        BagError: the folder cannot be written.
    """
    linked = 0
    try:
        merge.out.mkdir(parents=True, exist_ok=True)
        for source, name in merge.copies:
            with tempfile.TemporaryDirectory(dir=merge.out, prefix='.merge.') as place:
                made = Path(place, name)
                made.mkdir()
                ways = [
                    _bring(file.resolve(), made / file.name, link and file.name != METADATA)
                    for file in sorted(source.iterdir())
                    if file.is_file() and not file.name.startswith('.')
                ]
                linked += any(ways)
                fsync(made)
                os.rename(made, merge.out / name)
        fsync(merge.out)
    except OSError as error:
        raise BagError(f'cannot merge into {merge.out}: {error}') from error
    return linked


def _bring(source: Path, target: Path, link: bool) -> bool:
    """Link or copy one file; whether it was linked."""
    if link:
        try:
            os.link(source, target)
            return True
        except OSError:  # another file system, or one without links: then a copy
            pass
    shutil.copy2(source, target)
    fsync(target)
    return False


def _check_embodiments(infos: Sequence[EpisodeInfo]) -> None:
    for info in infos[1:]:
        first = infos[0]
        if info.embodiment == first.embodiment:
            continue
        if info.embodiment is None or first.embodiment is None:
            nameless, other = (info, first) if info.embodiment is None else (first, info)
            raise BagError(
                f'{nameless.path} names no embodiment and {other.path} does '
                f'({other.embodiment.name!r}): merge them apart'
            )
        what = '; '.join(first.embodiment.differences(info.embodiment))
        raise BagError(
            f'{info.path} is of another embodiment than {first.path}: {what}. Merge them apart'
        )


def _copies(infos: Sequence[EpisodeInfo]) -> dict[Path, Path]:
    """Episode -> an earlier one with the same content."""
    alike: dict[tuple, list[EpisodeInfo]] = {}
    for info in infos:
        said = info.embodiment.instruction_topic if info.embodiment else 'instruction'
        counts = sorted((t, n) for t, n in info.message_counts.items() if t != said and n)
        alike.setdefault(tuple(counts), []).append(info)
    same_as: dict[Path, Path] = {}
    for group in alike.values():
        if len(group) < 2:
            continue  # only what has as many messages can be the same: the others need no look
        first: dict[str, EpisodeInfo] = {}
        for info in group:
            earlier = first.setdefault(content_digest(info.path), info)
            if earlier is info:
                continue
            if _label(earlier) != _label(info):
                raise BagError(
                    f'{info.path} is the same recording as {earlier.path}, but labelled '
                    f'{_label(info)} instead of {_label(earlier)}: relabel or remove one of them'
                )
            same_as[info.path] = earlier.path
    return same_as


def _label(info: EpisodeInfo) -> tuple[str, str]:
    verdict = {True: 'succeeded', False: 'failed', None: 'not judged'}[info.success]
    return normalize_instruction(info.instruction), verdict


def _unique(path: Path, taken: set[str]) -> str:
    """The episode's own name, with its folder's before it where it is taken, or a number."""
    if path.name not in taken:
        return path.name
    longer = sanitize_name(f'{path.resolve().parent.name}_{path.name}')
    name, number = longer, 2
    while name in taken:
        name, number = f'{longer}_{number}', number + 1
    return name
