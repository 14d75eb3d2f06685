"""Which episodes the commands of `vla_bag` were given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_alignment_ros.data.bag import find_episodes
from vla_alignment_ros.errors import BagError


def chosen_episodes(paths: Sequence[Path]) -> list[Path]:
    """Return every finished episode under the paths, each once, in the order they were given.

    Raises BagError if there is none, or a path is not a folder.
    """
    if not paths:
        raise BagError('give an episode, or a folder of episodes')
    folders = list(dict.fromkeys(f for path in paths for f in find_episodes(path)))
    if not folders:
        raise BagError(
            f'no episode in {", ".join(map(str, paths))} (an episode is a folder with a '
            f'metadata.yaml; unfinished recordings do not count)'
        )
    return folders
