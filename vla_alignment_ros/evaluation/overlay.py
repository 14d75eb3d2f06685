"""Heat-maps on camera pictures, and the one picture that says where the words of a sentence look.

Plain arrays and OpenCV: drawn by the running policy node as well as for reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
import unicodedata

import cv2
import numpy as np

GREY = 0.9  # how bright the picture under a map is
FULL = 0.85  # opacity of a map where it is most

CELL = 256  # pixels: the height of a camera's picture is at least this …
LARGEST = 384  # … and at most this
GAP, BAR, TITLE, SCALE = 8, 88, 30, 34  # pixels
MIN_WIDTH = 640  # pixels, for the title
WORDS = 3  # maps of single words, at most
NAMES = 0.5  # a word that helps so much to name the thing has a map of its own
INK, SOFT, PAPER, LINE = (29, 35, 39), (102, 112, 120), (250, 250, 248), (205, 210, 206)
GATES = {'go': (38, 140, 96), 'slow': (214, 150, 30), 'hold': (196, 62, 45)}
FONT = cv2.FONT_HERSHEY_SIMPLEX


class GroundingLike(Protocol):
    """Where the words of a sentence point, as a policy says it."""

    words: Mapping[str, Mapping[str, np.ndarray]]  # '3:red' → camera → (rows, columns)
    sentence: Mapping[str, np.ndarray]
    naming: Mapping[str, float]  # word → how much it helps to name the thing, 0…1


def enlarge(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map (rows, columns) at the size of its picture, (height, width) float32."""
    return cv2.resize(
        np.ascontiguousarray(heat, np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )


def overlay(image: np.ndarray, heat: np.ndarray, most: float | None = None) -> np.ndarray:
    """A picture (H, W, 3) uint8, grey, under a map (rows, columns): yellow where it is most.

    most: the weight that is drawn as yellow; the map's own maximum if None.
    """
    large = enlarge(heat, *image.shape[:2])
    large = np.clip(large / max(float(large.max()) if most is None else most, 1e-12), 0, 1)
    grey = image.astype(np.float32).mean(2, keepdims=True) * GREY
    opacity = FULL * large[..., None]
    return (grey * (1 - opacity) + _colors(large) * opacity).round().astype(np.uint8)


def _colors(share: np.ndarray) -> np.ndarray:
    """Shares 0…1 (H, W) as colours (H, W, 3) uint8 RGB."""
    return cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]


def naming_words(naming: Mapping[str, float], limit: int = WORDS) -> list[str]:
    """The words that name the thing, in the order in which they are said; none without a gate."""
    best = sorted(naming, key=lambda word: -naming[word])[:limit]
    return [word for word in naming if word in best and naming[word] >= NAMES]


def grounding_picture(
    images: Mapping[str, np.ndarray],
    grounding: GroundingLike,
    instruction: str,
    score: float,
    gate: str,
    thresholds: tuple[float, float],
    reason: str = '',
) -> np.ndarray:
    """Each camera as it is, under the map of the sentence, and under those of the naming words.

    Args:
        images: camera → (H, W, 3) uint8.
        grounding: where the words point.
        instruction: the sentence.
        score: how well it fits the scene, 0…1.
        gate: 'go', 'slow' or 'hold'.
        thresholds: scores at which the gate holds and goes.
        reason: why it holds, in words.

    Returns:
        (H, W, 3) uint8 RGB; every map on the scale of its own maximum over all cameras.
    """
    maps = {'whole sentence': grounding.sentence}
    for word in naming_words(grounding.naming):
        title = f'"{word.partition(":")[2]}" names it: {grounding.naming[word]:.2f}'
        maps[title] = grounding.words[word]
    rows = []
    for name, image in images.items():
        seen = _fit(image)
        cells = [_cell(seen, f'{name} camera')]
        for title, heat in maps.items():
            most = max(float(one.max()) for one in heat.values())
            cells.append(_cell(overlay(seen, heat[name], most), title))
        rows.append(np.concatenate(cells, axis=1))
    width = max(MIN_WIDTH, *(row.shape[1] for row in rows))
    parts = [_title_bar(width, instruction, score, gate, thresholds, reason), *rows, _scale(width)]
    return np.concatenate([_widen(part, width) for part in parts])


def _fit(image: np.ndarray) -> np.ndarray:
    height = min(max(image.shape[0], CELL), LARGEST)
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    shrinks = height < image.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=how)


def _cell(image: np.ndarray, title: str) -> np.ndarray:
    height, width = image.shape[:2]
    cell = _paper(height + TITLE, width + GAP)
    cell[TITLE:, GAP // 2 : GAP // 2 + width] = image
    _write(cell, title, (GAP // 2, TITLE - 9), 0.6, INK, width, 1)
    return cell


def _title_bar(
    width: int,
    instruction: str,
    score: float,
    gate: str,
    thresholds: tuple[float, float],
    reason: str,
) -> np.ndarray:
    bar = _paper(BAR, width)
    color = GATES.get(gate, SOFT)
    block = 120
    cv2.rectangle(bar, (0, 0), (block, BAR - 1), color, cv2.FILLED)
    _write(bar, gate.upper(), (14, 54), 1.1, (255, 255, 255), block - 24, 2)
    left = block + 16
    _write(bar, f'"{instruction}"', (left, 32), 0.8, INK, width - left - GAP, 2)
    text = f'fits {score:.2f}' if np.isfinite(score) else 'no score'
    _write(bar, text, (left, 66), 0.6, color, 100, 1)
    first, last = left + 104, left + 304
    cv2.rectangle(bar, (first, 52), (last, 66), LINE, cv2.FILLED)
    if np.isfinite(score):
        end = first + round(min(1.0, max(0.0, score)) * (last - first))
        cv2.rectangle(bar, (first, 52), (end, 66), color, cv2.FILLED)
    for name, at in zip(('hold', 'go'), thresholds):
        x = first + round(at * (last - first))
        cv2.line(bar, (x, 48), (x, 70), INK, 2)
        _write(bar, name, (x - (30 if name == 'hold' and at > 0.2 else 0), 83), 0.4, INK, 40, 1)
    _write(bar, reason, (last + 24, 66), 0.55, INK, width - last - 24 - GAP, 1)
    return bar


def _scale(width: int) -> np.ndarray:
    scale = _paper(SCALE, width)
    text = 'where it looks:  least'
    _write(scale, text, (GAP // 2, 22), 0.55, SOFT, 190, 1)
    ramp = _colors(np.tile(np.linspace(0, 1, 200, dtype=np.float32), (14, 1)))
    scale[10:24, 206:406] = ramp
    _write(scale, 'most', (416, 22), 0.55, SOFT, width - 420, 1)
    return scale


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)


def _widen(part: np.ndarray, width: int) -> np.ndarray:
    wide = _paper(part.shape[0], width)
    wide[:, : part.shape[1]] = part
    return wide


def _write(
    image: np.ndarray,
    text: str,
    at: tuple[int, int],
    size: float,
    color: tuple[int, int, int],
    room: int,
    weight: int,
) -> None:
    """Write on a picture, in place; smaller, and then shorter, where there is no room for it."""
    # the font knows ASCII alone
    plain = unicodedata.normalize('NFKD', text).encode('ascii', 'ignore').decode()
    (width, _), _ = cv2.getTextSize(plain, FONT, size, weight)
    if width > room:
        size *= max(0.6, room / width)
    while plain and cv2.getTextSize(plain, FONT, size, weight)[0][0] > room:
        plain = plain[:-1]
    cv2.putText(image, plain, at, FONT, size, color, weight, cv2.LINE_AA)
