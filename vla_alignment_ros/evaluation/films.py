"""Films of episodes: thumbnails collected while it runs, a filmstrip and a score curve after."""
from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

THUMBNAIL_WIDTH = 160  # pixels of one frame in a strip, at most
STRIP_FRAMES = 8
STRIP_GAP = 4  # pixels between frames
MAX_KEPT = 48  # frames held in memory per episode


@dataclass
class Film:
    """
    Thumbnails of one episode, evenly spread over it whatever its length.

    Frames are kept every ``stride`` steps; when too many are held every second one is dropped
    and the stride doubles, so memory is bounded and the spacing stays even. The newest frame is
    always remembered, for the end of an episode is what one wants to see.
    """

    frames: list[tuple[int, np.ndarray]] = field(default_factory=list)  # (step, (h,w,3) uint8)
    stride: int = 2
    last: tuple[int, np.ndarray] | None = None

    def wants(self, step: int) -> bool:
        """Tell whether a frame of this step would be kept (so that others need no drawing)."""
        return step % self.stride == 0

    def add(self, step: int, image: np.ndarray) -> None:
        """Remember one frame, (H, W, 3) uint8 RGB of any size."""
        frame = thumbnail(image)
        self.last = (step, frame)
        if not self.wants(step):
            return
        self.frames.append(self.last)
        if len(self.frames) > MAX_KEPT:
            self.stride *= 2
            self.frames = [kept for kept in self.frames if self.wants(kept[0])]

    def pick(self, count: int = STRIP_FRAMES) -> list[tuple[int, np.ndarray]]:
        """Return up to ``count`` frames, evenly spaced, the first and the newest among them."""
        frames = list(self.frames)
        if self.last is not None and (not frames or frames[-1][0] != self.last[0]):
            frames.append(self.last)
        if len(frames) <= count:
            return frames
        chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
        return [frames[i] for i in chosen]


def thumbnail(image: np.ndarray, width: int = THUMBNAIL_WIDTH) -> np.ndarray:
    """Shrink (H, W, 3) uint8 to the given width, keeping its shape; smaller ones are copied."""
    if image.shape[1] <= width:
        return image.copy()
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def filmstrip(film: Film, count: int = STRIP_FRAMES) -> np.ndarray | None:
    """Return the frames side by side as (H, W, 4) uint8 RGBA, the gaps clear; None if empty."""
    picked = film.pick(count)
    if not picked:
        return None
    height = max(frame.shape[0] for _, frame in picked)
    width = sum(frame.shape[1] for _, frame in picked) + STRIP_GAP * (len(picked) - 1)
    strip = np.zeros((height, width, 4), np.uint8)
    left = 0
    for _, frame in picked:
        rows, columns = frame.shape[:2]
        strip[:rows, left : left + columns, :3] = frame
        strip[:rows, left : left + columns, 3] = 255
        left += columns + STRIP_GAP
    return strip


def encode_png(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) RGB or (H, W, 4) RGBA uint8 as PNG."""
    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    done, data = cv2.imencode('.png', cv2.cvtColor(image, order), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise RuntimeError(f'cannot encode an image of shape {image.shape} as PNG')
    return data.tobytes()


def encode_jpeg(image: np.ndarray, quality: int = 88) -> bytes:
    """Encode (H, W, 3) RGB uint8 as JPEG."""
    data = cv2.imencode(
        '.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1]
    return data.tobytes()


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as a ``data:`` URI, so that a page needs no other file."""
    return f'data:image/{kind};base64,{base64.b64encode(data).decode("ascii")}'


def frame_uris(film: Film, count: int = STRIP_FRAMES) -> list[tuple[int, str]]:
    """Return the picked frames as (step, data URI)."""
    return [(step, data_uri(encode_jpeg(frame), 'jpeg')) for step, frame in film.pick(count)]


def score_path(
    scores: Sequence[float], width: float, height: float, length: int | None = None
) -> str:
    """
    Return the SVG path of scores in 0..1 over time; 1 is at the top.

    length: the number of steps that the whole width stands for (default: all of them). A score
    that is not finite leaves a gap.
    """
    span = max(1, (length or len(scores)) - 1)
    pieces: list[str] = []
    pen_down = False
    for i, score in enumerate(scores):
        if not np.isfinite(score):
            pen_down = False
            continue
        x, y = width * i / span, height * (1 - min(1.0, max(0.0, score)))
        pieces.append(f'{"L" if pen_down else "M"}{x:.1f} {y:.1f}')
        pen_down = True
    return ' '.join(pieces)


def held_spans(gates: Sequence[str], width: float) -> list[tuple[float, float]]:
    """Return (x, width) of every stretch in which the gate held, for shading."""
    span = max(1, len(gates) - 1)
    found: list[tuple[float, float]] = []
    start: int | None = None
    for i, gate in enumerate([*gates, 'end']):
        if gate == 'hold' and start is None:
            start = i
        elif gate != 'hold' and start is not None:
            found.append((width * start / span, width * max(0.5, i - 1 - start) / span))
            start = None
    return found
