"""Write worlds/tabletop.sdf, the Gazebo twin of the MuJoCo scene."""

from __future__ import annotations

from pathlib import Path

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.sim.gazebo import default_scene, world_sdf

WORLD = Path(__file__).resolve().parents[1] / 'worlds' / 'tabletop.sdf'


def main() -> None:
    """Make the world of the default scene."""
    WORLD.parent.mkdir(exist_ok=True)
    WORLD.write_text(world_sdf(default_scene(), Embodiment.load('tabletop')), encoding='utf-8')
    print(f'wrote {WORLD}')


if __name__ == '__main__':
    main()
