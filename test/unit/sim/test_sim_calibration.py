"""The embodiment's calibration is that of the camera the simulation draws with."""

import dataclasses

import numpy as np
import pytest

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import TabletopWorld


def test_objects_are_seen_where_the_calibration_says():
    camera = Embodiment.load('tabletop').cameras[0]
    spec = sample_episode(0, 'seen')
    still = {'camera_offset_m': (0.0,) * 3, 'camera_aim_offset_m': (0.0,) * 3}
    spec = dataclasses.replace(spec, scene=dataclasses.replace(spec.scene, **still))
    with TabletopWorld() as world:
        world.reset(spec)
        seen = world.segmentation('front', camera.width, camera.height)
        for item in spec.scene.objects:
            rows, columns = np.nonzero(seen == list(world.object_names).index(item.name))
            point = np.append(world.objects[item.name].position, 1.0)
            u, v, w = camera.calibration.projection(camera.width, camera.height) @ point
            assert (u / w + 1) / 2 * camera.width == pytest.approx(columns.mean() + 0.5, abs=1.5)
            assert (v / w + 1) / 2 * camera.height == pytest.approx(rows.mean() + 0.5, abs=1.5)
