"""Where episodes come from: rosbags, or the episodes of a LeRobot folder read as messages.

Both are the same to whoever reads them. A LeRobot folder is named `lerobot:FOLDER`, one episode
of it `lerobot:FOLDER/episode_000012`; every other path is a bag, or a folder of bags.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import logging
from pathlib import Path
from typing import Any, Protocol

from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.bag_format import EpisodeInfo
from vla_alignment_ros.data.lerobot import require
from vla_alignment_ros.data.lerobot.keys import LeRobotKeys
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError, DatasetError

LEROBOT = 'lerobot:'  # before the path of a LeRobot folder
_LOG = logging.getLogger(__name__)


class Episode(Protocol):
    """One demonstration as a stream of messages."""

    info: EpisodeInfo
    reading: str  # how its files are read, where there is more than one way

    def messages(
        self, topics: Iterable[str] | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """(topic, type, log time in ns, CDR bytes) in log-time order: see `EpisodeReader`."""

    def heads(self, topics: Iterable[str]) -> Iterator[tuple[str, str, int, bytes]]:
        """The same messages; images may end after their header, and are not decoded for it."""

    def some(self, numbers: Mapping[str, Collection[int]]) -> Iterator[tuple[str, int, bytes]]:
        """(topic, number, CDR bytes) of some of each topic's messages: see `EpisodeReader`."""

    def files(self) -> list[Path]:
        """Every file that the messages depend on."""


def open_episode(
    path: Path | str, embodiment: Embodiment | None = None, keys: LeRobotKeys | None = None
) -> Episode:
    """The episode at a path.

    Args:
        path: a bag, or `lerobot:FOLDER/episode_000012`.
        embodiment, keys: see `find_sources`.

    Raises:
        BagError, DatasetError: there is none, or it is damaged.
    """
    if not str(path).startswith(LEROBOT):
        return EpisodeReader(path, embodiment)
    return _lerobot().open_lerobot_episode(str(path)[len(LEROBOT) :], embodiment, keys)


def find_sources(
    roots: Sequence[Path | str],
    embodiment: Embodiment | None = None,
    keys: LeRobotKeys | None = None,
    skip_bad: bool = False,
) -> tuple[list[Episode], dict[str, str]]:
    """Every episode under the roots, each once, and path -> reason of those left out.

    Args:
        roots: bags, folders to search for bags, and `lerobot:FOLDER`.
        embodiment: the robot, in place of the one that bags and folders name. Topics are spelled
            as it spells them.
        keys: which feature of a LeRobot folder is what, where the names do not tell.
        skip_bad: leave unreadable bags out with a warning, instead of raising.

    Raises:
        DatasetError: nothing found, or something that cannot be read.
    """
    episodes: dict[str, Episode] = {}
    skipped: dict[str, str] = {}
    for root in roots:
        if str(root).startswith(LEROBOT):
            folder = str(root)[len(LEROBOT) :]
            found = _lerobot().find_lerobot_episodes(folder, embodiment, keys)
            episodes |= {str(episode.info.path): episode for episode in found}
            continue
        for path in _bags(Path(root)):
            try:
                episodes[str(path)] = EpisodeReader(path, embodiment)
            except BagError as error:
                if not skip_bad:
                    raise DatasetError(f'{error}; remove the episode or set skip_bad') from error
                skipped[str(path)] = str(error)
    if not episodes:
        folders = ', '.join(map(str, roots)) or 'no folder at all'
        raise DatasetError(
            f'no episode in {folders}: record some first (an episode is a folder with a '
            f'metadata.yaml; unfinished recordings do not count)'
        )
    if skipped:
        _LOG.warning('%d unreadable episodes are left out: %s', len(skipped), skipped)
    return list(episodes.values()), skipped


def common_embodiment(episodes: Sequence[Episode]) -> Embodiment:
    """The embodiment that all episodes name.

    Raises:
        DatasetError: one names none, or they name several.
    """
    first = episodes[0].info
    for info in (episode.info for episode in episodes):
        if info.embodiment is None:
            raise DatasetError(
                f'{info.path} names no embodiment; give the one it was recorded with'
            )
        if info.embodiment != first.embodiment:
            raise DatasetError(
                f'episodes of different embodiments cannot be mixed: {first.path} has '
                f'{first.embodiment.name!r}, {info.path} has {info.embodiment.name!r} (or another '
                f'version of it); load them apart, or name the embodiment to read both with'
            )
    return first.embodiment


def folder_of(root: Path | str) -> Path:
    """The folder that a root names, without the prefix."""
    return Path(str(root).removeprefix(LEROBOT))


def _bags(root: Path) -> list[Path]:
    try:
        found = find_episodes(root)
    except BagError as error:
        raise DatasetError(str(error)) from error
    if not found and (root / 'meta' / 'info.json').is_file():
        raise DatasetError(f'{root} is a LeRobot folder, not one of bags: name it {LEROBOT}{root}')
    return [path.resolve() for path in found]


def _lerobot() -> Any:
    require()
    from vla_alignment_ros.data.lerobot import reader  # needs packages that not everybody has

    return reader
