"""The short way through the commonest image gives what the general way gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.errors import WireError
from vla_alignment_ros.pixels import unpadded_rgb8


def general(raw):
    """The frame by the general way alone, or the error's type."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, 'unpadded_rgb8', lambda raw: None)
        return outcome(raw)


def outcome(raw):
    try:
        frame = wire.decode_image(raw)
    except WireError:
        return WireError
    image = np.ascontiguousarray(frame.image)
    return frame.ts_ns, frame.frame_id, image.shape, image.tobytes(), frame.image.flags.writeable


def message(height=3, width=5, frame_id='camera', ts_ns=7_000_000_009):
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    return wire.encode_image(pixels, ts_ns, frame_id)


@given(
    st.integers(1, 6), st.integers(1, 6), st.text(max_size=9), st.integers(-(2**31), 2**31 - 1)
)
def test_the_short_way_is_taken_and_agrees(height, width, frame_id, sec):
    raw = message(height, width, frame_id, sec * 1_000_000_000 + 5)
    assert unpadded_rgb8(raw) is not None
    assert outcome(raw) == general(raw)


@given(st.data())
def test_damaged_bytes_end_the_same_on_both_ways(data):
    raw = bytearray(message(frame_id=data.draw(st.sampled_from(['', 'a', 'cam', 'front']))))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(1, 63))] = data.draw(st.integers(0, 255))
    raw = bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    assert outcome(raw) == general(raw)


@pytest.mark.parametrize('kind', [bytes, bytearray, memoryview])
def test_any_buffer_gives_a_read_only_view(kind):
    raw = kind(message())
    frame = wire.decode_image(raw)
    assert outcome(raw) == general(raw)
    assert not frame.image.flags.writeable and not frame.image.flags.owndata


def test_other_images_go_the_general_way():
    raw = message()
    assert unpadded_rgb8(raw.replace(b'rgb8', b'bgr8')) is None
    assert unpadded_rgb8(raw[:-1]) is None
    assert unpadded_rgb8(raw.replace(b'camera\0', b'camera\1')) is None
    assert unpadded_rgb8(b'') is None
