from fractions import Fraction

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.pixels import shrink


def noise(height, width, channels=3):
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def overlaps(size, out):
    """(out, size) how much of each input pixel lies under each output pixel, exactly."""
    ratio = Fraction(size, out)
    return [
        [max(0, min((j + 1) * ratio, i + 1) - max(j * ratio, i)) for i in range(size)]
        for j in range(out)
    ]


def exact_mean(image, height, width):
    down, across = overlaps(image.shape[0], height), overlaps(image.shape[1], width)
    down, across = np.array(down, np.float64), np.array(across, np.float64)
    mean = np.einsum('jh,hwc,iw->jic', down, image.astype(np.float64), across)
    return mean / (image.shape[0] * image.shape[1] / height / width)


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    tall=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    wide=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    channels=st.integers(1, 4),
)
def test_every_pixel_is_the_mean_of_its_area(blocks, tall, wide, channels):
    height, rows = sorted(blocks[0] * side for side in tall)
    width, columns = sorted(blocks[1] * side for side in wide)
    image = noise(rows, columns, channels)
    found = shrink(image, height, width)
    assert found.shape == (height, width, channels) and found.dtype == np.uint8
    assert np.abs(found - exact_mean(image, height, width)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    'size, out',
    [
        ((480, 640), (128, 128)),
        ((240, 320), (64, 64)),
        ((480, 848), (128, 128)),
        ((720, 1280), (128, 128)),
        ((360, 640), (128, 128)),
        ((960, 1280), (96, 128)),
        ((479, 641), (128, 128)),
    ],
)
def test_common_cameras_look_as_cv2_shows_them(size, out):
    image = noise(*size)
    expected = cv2.resize(image, out[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(shrink(image, *out), expected)


def test_views_that_are_not_contiguous_and_images_that_grow_are_taken():
    image = noise(480, 640)
    flipped = image[::-1, :, ::-1]
    expected = shrink(np.ascontiguousarray(flipped), 128, 128)
    np.testing.assert_array_equal(shrink(flipped, 128, 128), expected)
    small = noise(20, 30)
    expected = cv2.resize(small, (64, 48), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(shrink(small, 48, 64), expected)
    assert shrink(small[..., :1], 48, 64).shape == (48, 64, 1)
