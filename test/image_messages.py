"""Image messages of every encoding, padding and byte order, honest or lying."""

from __future__ import annotations

import numpy as np
from rosbags.typesys import get_typestore, Stores

from vla_alignment_ros import wire

IMAGE = 'sensor_msgs/msg/Image'
STORE = get_typestore(Stores.ROS2_JAZZY)


def image_bytes(pixels, encoding, padding=0, big_endian=False, little_cdr=True, **lies):
    """CDR bytes of an Image: rows of `pixels` padded by `padding` bytes of rubbish."""
    height, width = pixels.shape[:2]
    if pixels.dtype.itemsize > 1:
        pixels = pixels.astype(pixels.dtype.newbyteorder('>' if big_endian else '<'))
    rows = np.frombuffer(pixels.tobytes(), np.uint8).reshape(height, -1)
    rows = np.hstack([rows, np.full((height, padding), 0xAB, np.uint8)])
    fields = {
        'header': wire.header(1_000_000_002, 'camera'),
        'height': height,
        'width': width,
        'encoding': encoding,
        'is_bigendian': int(big_endian),
        'step': rows.shape[1],
        'data': rows.reshape(-1),
    }
    message = wire.make(IMAGE, **{**fields, **lies})
    return bytes(STORE.serialize_cdr(message, IMAGE, little_endian=little_cdr))


def to_rgb(pixels, encoding):
    """What the pixels look like to a person, by the definition of the encoding."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if encoding.startswith('mono'):
        return np.stack([pixels] * 3, axis=-1)
    rgb = pixels[..., :3]
    return rgb[..., ::-1] if encoding.startswith('bgr') else rgb


ENCODINGS = {
    'rgb8': (3, np.uint8),
    'bgr8': (3, np.uint8),
    'mono8': (0, np.uint8),
    'rgba8': (4, np.uint8),
    'bgra8': (4, np.uint8),
    'mono16': (0, np.uint16),
    'rgb16': (3, np.uint16),
    'bgr16': (3, np.uint16),
    'rgba16': (4, np.uint16),
    'bgra16': (4, np.uint16),
}
