"""Pixels of an image message → (H, W, 3) uint8 RGB, whatever the encoding and the size.

Rows may be padded (`step` > pixels) and 16-bit data may have either byte order; both are honoured
here for every encoding, because not every cv_bridge does: some read padding as pixels or fail on
big-endian data. cv_bridge gets what is left, with its rows packed and in native order.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
import struct
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from vla_alignment_ros.errors import WireError

MAX_IMAGE_SIDE = 16384  # pixels; a larger claim is a lie, not a camera
MAX_COMPRESSED_PIXELS = 2**26  # of a file that may be tiny itself: 200 MB when decoded
# rows and columns of a block: the matrix of a larger one is mostly zeros, and cv2 is faster
_MOST_ROWS = 32
_MOST_COLUMNS = 64
_SCRATCH_BYTES = 400_000  # of rows as float32, well inside a core's cache

# encoding -> bytes per number, numbers per pixel
_COLOUR = {
    'rgb8': (1, 3),
    'bgr8': (1, 3),
    'mono8': (1, 1),
    'rgba8': (1, 4),
    'bgra8': (1, 4),
    'mono16': (2, 1),
    'rgb16': (2, 3),
    'bgr16': (2, 3),
    'rgba16': (2, 4),
    'bgra16': (2, 4),
}
_YUV = {
    'yuv422': cv2.COLOR_YUV2RGB_UYVY,
    'uyvy': cv2.COLOR_YUV2RGB_UYVY,
    'yuv422_yuy2': cv2.COLOR_YUV2RGB_YUY2,
    'yuyv': cv2.COLOR_YUV2RGB_YUY2,
}
# OpenCV names a Bayer pattern by its second row
_BAYER = {
    'bayer_rggb': cv2.COLOR_BayerBG2RGB,
    'bayer_bggr': cv2.COLOR_BayerRG2RGB,
    'bayer_gbrg': cv2.COLOR_BayerGR2RGB,
    'bayer_grbg': cv2.COLOR_BayerGB2RGB,
}
_DEPTH = ('16UC1', '32FC1', '64FC1')
_STAMP_AND_LENGTH, _PAIR = struct.Struct('<iII'), struct.Struct('<II')
_RGB8 = struct.pack('<I5s', 5, b'rgb8')


def to_rgb(
    data: np.ndarray, height: int, width: int, step: int, encoding: str, big_endian: bool
) -> np.ndarray:
    """Pixels as (height, width, 3) uint8 RGB.

    rgb8 is a read-only view of `data`, bgr8 and mono8 are views too (reversed, broadcast). 16-bit
    numbers are scaled to 8 bits by their high byte.

    Args:
        data: (height × step,) uint8.
        step: bytes per row.

    Raises:
        WireError: rows shorter than their pixels, a depth image, or an unknown encoding.
    """
    if encoding in _COLOUR:
        size, channels = _COLOUR[encoding]
        pixels = _pixels(data, height, width, step, size, channels, big_endian, encoding)
        if channels == 1:
            return np.broadcast_to(pixels, (height, width, 3))
        rgb = pixels[:, :, :3]
        return rgb[:, :, ::-1] if encoding.startswith('bgr') else rgb
    if encoding in _DEPTH:
        raise WireError(f'image encoding {encoding} is depth; a colour or mono image is needed')
    try:
        if encoding in _YUV:
            pixels = _pixels(data, height, width, step, 1, 2, big_endian, encoding)
            if width % 2:
                raise WireError(f'{encoding} images have an even width, got {width}')
            return cv2.cvtColor(np.ascontiguousarray(pixels), _YUV[encoding])
        pattern, bits = encoding[:-1], encoding[-1:]
        if encoding.endswith('16'):
            pattern, bits = encoding[:-2], '16'
        if pattern in _BAYER and bits in ('8', '16'):
            pixels = _pixels(data, height, width, step, int(bits) // 8, 1, big_endian, encoding)
            return cv2.cvtColor(np.ascontiguousarray(pixels[:, :, 0]), _BAYER[pattern])
        image = _through_cv_bridge(data, height, width, step, encoding, big_endian)
    except cv2.error as error:
        raise WireError(f'cannot convert image encoding {encoding!r} to RGB: {error}') from error
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise WireError(f'image encoding {encoding!r} gave {image.dtype} {image.shape}, not RGB')
    return image


def unpadded_rgb8(raw: bytes) -> tuple[int, str, np.ndarray] | None:
    """Stamp (ns), frame and pixels of the CDR bytes of the commonest image; None for any others.

    The general way gives the same at four times the cost. The pixels are a read-only view.
    """
    try:
        sec, nanosec, length = _STAMP_AND_LENGTH.unpack_from(raw, 4)
        end = 16 + length
        frame_id = str(raw[16 : end - 1], 'utf-8')
        place = (end + 3) & ~3
        height, width = _PAIR.unpack_from(raw, place)
        if raw[1] != 1 or end == 16 or raw[end - 1] or raw[place + 8 : place + 17] != _RGB8:
            return None
        place = (place + 21) & ~3  # behind is_bigendian
        step, size = _PAIR.unpack_from(raw, place)
    except (struct.error, UnicodeDecodeError, IndexError):
        return None
    data = place + 8
    sound = 0 < height <= MAX_IMAGE_SIDE and 0 < width <= MAX_IMAGE_SIDE and step == 3 * width
    if not sound or size != height * step or size > len(raw) - data:
        return None
    image = np.frombuffer(raw, np.uint8, size, data).reshape(height, width, 3)
    image.flags.writeable = False
    return sec * 1_000_000_000 + nanosec, frame_id, image


def _pixels(
    data: np.ndarray,
    height: int,
    width: int,
    step: int,
    size: int,
    channels: int,
    big_endian: bool,
    encoding: str,
) -> np.ndarray:
    """(height, width, channels) uint8 view of padded rows; of wide numbers their high bytes."""
    if step < width * channels * size:
        raise WireError(f'image step {step} is shorter than {width} {encoding} pixels')
    if data.shape != (height * step,):
        raise WireError(f'image needs {height * step} bytes, got {data.shape}')
    high = 0 if big_endian else size - 1  # offset of a number's most significant byte
    return np.lib.stride_tricks.as_strided(
        data[high:], (height, width, channels), (step, channels * size, size), writeable=False
    )


def _through_cv_bridge(
    data: np.ndarray, height: int, width: int, step: int, encoding: str, big_endian: bool
) -> np.ndarray:
    try:
        # imported late: only unusual encodings need it
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise WireError(
            f'image encoding {encoding!r} needs cv_bridge, which is missing'
        ) from error
    bridge = CvBridge()
    try:
        name, channels = bridge.encoding_to_dtype_with_channels(encoding)
        dtype = np.dtype(name)
        row = width * channels * dtype.itemsize
        if step < row:
            raise WireError(f'image step {step} is shorter than {width} {encoding} pixels')
        numbers = np.ascontiguousarray(data.reshape(height, step)[:, :row]).view(
            dtype.newbyteorder('>' if big_endian else '<')
        )
        message: Any = SimpleNamespace(
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=row,
            data=numbers.astype(dtype.newbyteorder('<')).view(np.uint8).reshape(-1),
        )
        return np.asarray(bridge.imgmsg_to_cv2(message, 'rgb8'))
    except (CvBridgeError, ValueError, TypeError, RuntimeError, KeyError, IndexError) as error:
        raise WireError(f'cannot convert image encoding {encoding!r} to RGB: {error}') from error


def decompress_rgb(data: np.ndarray) -> np.ndarray:
    """A JPEG or PNG file as (H, W, 3) uint8 RGB.

    Args:
        data: (N,) uint8.

    Raises:
        WireError: another format, truncated, damaged, or impossibly large.
    """
    file = data.tobytes()
    if file.startswith(b'\xff\xd8\xff'):
        kind, size = 'jpeg', _jpeg_size(file)
    elif file.startswith(_PNG):
        kind, size = 'png', _png_size(file)
    else:
        raise WireError('compressed image is neither jpeg nor png')
    if size is None:
        raise WireError(f'broken or truncated {kind} of {len(file)} bytes')
    width, height = size
    if not (0 < width <= MAX_IMAGE_SIDE and 0 < height <= MAX_IMAGE_SIDE):
        raise WireError(f'{kind} of {width}x{height} pixels is empty or impossibly large')
    if width * height > MAX_COMPRESSED_PIXELS:
        raise WireError(f'{kind} of {width}x{height} pixels is impossibly large')
    try:
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise WireError(f'broken {kind} of {len(file)} bytes: {error}') from error
    if bgr is None:
        raise WireError(f'broken {kind} of {len(file)} bytes')
    return bgr[:, :, ::-1]


_PNG = b'\x89PNG\r\n\x1a\n'


def _png_size(file: bytes) -> tuple[int, int] | None:
    """(width, height) of a PNG whose chunks are all there; None of any other.

    The decoder believes a chunk's length and allocates it, gigabytes if that is what it says.
    """
    place, size = len(_PNG), None
    while place + 12 <= len(file):
        length = int.from_bytes(file[place : place + 4], 'big')
        name = file[place + 4 : place + 8]
        end = place + 12 + length  # length, name, data, checksum
        if end > len(file):
            return None
        if size is None:
            if name != b'IHDR' or length != 13:
                return None
            corner = file[place + 8 : place + 16]
            size = int.from_bytes(corner[:4], 'big'), int.from_bytes(corner[4:], 'big')
        if name == b'IEND':
            return size
        place = end
    return None


def _jpeg_size(file: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG with a frame header and an end; None of any other."""
    if b'\xff\xd9' not in file[-64:]:  # cameras may append a few bytes
        return None
    place = 2
    while place + 9 < len(file) and file[place] == 0xFF:
        marker = file[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a body
            place += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            corner = file[place + 5 : place + 9]
            return int.from_bytes(corner[2:], 'big'), int.from_bytes(corner[:2], 'big')
        else:
            place += 2 + max(2, int.from_bytes(file[place + 2 : place + 4], 'big'))
    return None


# -- sizes --------------------------------------------------------------------------------------


def shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (H, W, C) uint8 at another size, (height, width, C) uint8.

    Every pixel is the mean of the area that it stands for: the numbers of `cv2.resize` with
    INTER_AREA, in half of the time for the sizes of common cameras. There the sides shrink by
    ratios of small whole numbers, and the image falls into blocks of a few rows (480 to 128: 15
    to 4) and columns, each of which a small matrix product takes. Where a side has to grow it is
    interpolated, as cv2 does.
    """
    rows, columns, channels = image.shape
    blocks = gcd(rows, height), gcd(columns, width)
    tall, wide = rows // blocks[0], columns // blocks[1]
    grows = rows < height or columns < width
    whole = rows % height == columns % width == 0  # cv2 has another way for these
    if grows or whole or tall > _MOST_ROWS or wide > _MOST_COLUMNS:
        image = np.ascontiguousarray(image)
        found = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return found.reshape(height, width, channels)
    down, across = _means(tall, height // blocks[0], 1), _means(wide, width // blocks[1], channels)
    source = image.reshape(blocks[0], tall, columns * channels)
    narrow = np.empty((blocks[0], len(down), columns * channels), np.float32)
    step = max(1, _SCRATCH_BYTES // (4 * tall * columns * channels))
    scratch = np.empty((step, tall, columns * channels), np.float32)
    for first in range(0, blocks[0], step):
        part = scratch[: min(step, blocks[0] - first)]
        part[...] = source[first : first + step]
        np.matmul(down, part, out=narrow[first : first + step])
    # stacked, so that no product is large enough for BLAS to wake its threads
    mean = narrow.reshape(blocks[0], -1, wide * channels) @ across.T
    return np.rint(mean, out=mean).astype(np.uint8).reshape(height, width, channels)


@lru_cache(maxsize=64)
def _means(size: int, out: int, channels: int) -> np.ndarray:
    """(out · channels, size · channels) float32: means of a block's overlapping stretches."""
    edges = np.arange(out + 1) * (size / out)
    place = np.arange(size)
    overlap = np.minimum(edges[1:, None], place + 1) - np.maximum(edges[:-1, None], place)
    means = np.maximum(overlap, 0) * (out / size)
    return np.kron(means, np.eye(channels)).astype(np.float32)
