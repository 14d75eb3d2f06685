"""`vla_bag import`: demonstrations of another tool as bags."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from vla_alignment_ros.data import lerobot
from vla_alignment_ros.data.lerobot.keys import LeRobotKeys
from vla_alignment_ros.data.source import find_sources, folder_of, LEROBOT
from vla_alignment_ros.embodiment import Embodiment


def import_(
    path: tyro.conf.Positional[Path],
    /,
    out: Path,
    embodiment: str | None = None,
    lerobot_keys: Path | None = None,
    storage: Literal['mcap', 'sqlite3'] = 'mcap',
    compression: Literal['zstd'] | None = None,
) -> int:
    """Write the episodes of a LeRobot folder (LeRobotDataset v3.0) as bags, one each.

    Training reads such a folder as it is: vla_train --data lerobot:PATH.

    Args:
        path: The LeRobot folder.
        out: Folder that receives the bags.
        embodiment: Name or YAML file of the robot, where the folder does not say it.
        lerobot_keys: YAML file that says which feature is what, where the names do not tell.
        storage: Of the bags.
        compression: Of the bags.
    """
    lerobot.require()
    from vla_alignment_ros.data.lerobot.to_bags import import_bags

    given = None if embodiment is None else Embodiment.load(embodiment)
    keys = None if lerobot_keys is None else LeRobotKeys.load(lerobot_keys)
    episodes, _ = find_sources([f'{LEROBOT}{folder_of(path)}'], given, keys)
    bags = import_bags(episodes, out, storage, compression)
    print(f'{out}: {len(bags)} bags')
    return 0
