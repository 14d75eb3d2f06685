"""A calibrated camera projects points to where it sees them."""

import numpy as np
import pytest

from vla_alignment_ros.calibration import Pinhole
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import EmbodimentError


def project(camera, point, width, height):
    u, v, w = camera.projection(width, height) @ np.append(point, 1.0)
    return u / w, v / w, w


def test_a_camera_that_looks_down_sees_the_base_axes_where_they_are():
    # optical z down, x along base x, y along base -y
    camera = Pinhole((0.0, 0.0, 2.0), (1.0, 0.0, 0.0, 0.0), (100.0, 100.0), (50.0, 40.0))
    assert project(camera, (0, 0, 0), 100, 80) == pytest.approx((0, 0, 2))
    assert project(camera, (1, 0, 0), 100, 80) == pytest.approx((1, 0, 2))
    assert project(camera, (0, 0.8, 0), 100, 80) == pytest.approx((0, -1, 2))
    assert project(camera, (0, 0, 3), 100, 80)[2] < 0  # behind


@pytest.mark.parametrize(
    'change, message',
    [
        ({'quaternion': (1.0, 1.0, 0.0, 0.0)}, 'unit'),
        ({'quaternion': (1.0, 0.0, 0.0)}, '4 numbers'),
        ({'position': (0.0, 0.0, float('nan'))}, '3 numbers'),
        ({'focal': (0.0, 1.0)}, 'positive'),
        ({'centre': 'middle'}, '2 numbers'),
    ],
)
def test_an_impossible_calibration_is_refused(change, message):
    good = {
        'position': (0.0, 0.0, 1.0),
        'quaternion': (1.0, 0.0, 0.0, 0.0),
        'focal': (100.0, 100.0),
        'centre': (50.0, 50.0),
    }
    with pytest.raises(EmbodimentError, match=message):
        Pinhole(**{**good, **change})


def test_a_calibration_travels_with_the_embodiment():
    embodiment = Embodiment.load('tabletop')
    assert embodiment.cameras[0].calibration is not None
    assert Embodiment.from_dict(embodiment.to_dict()) == embodiment
    data = embodiment.to_dict()
    data['cameras'][0]['calibration']['focus'] = 1
    with pytest.raises(EmbodimentError, match=r'focus.*allowed: position'):
        Embodiment.from_dict(data)
    del data['cameras'][0]['calibration']
    assert Embodiment.from_dict(data).cameras[0].calibration is None
