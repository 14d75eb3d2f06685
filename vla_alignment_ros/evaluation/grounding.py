"""Do the heat maps lie on what the words mean? Pointing game and IoU against true pixels.

Zhang et al. 2016 (arXiv:1608.00507) introduced the pointing game. A map is brought to the size of
the picture by bilinear interpolation; everything is judged there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np

from vla_alignment_ros.evaluation.overlay import enlarge
from vla_alignment_ros.evaluation.scenes import EvaluationScene
from vla_alignment_ros.evaluation.stats import rate, wilson_interval
from vla_alignment_ros.sim.phrases import load_splits

KINDS = ('sentence', 'colour', 'shape', 'tray')
MIN_PIXELS = 12  # of a thing in a picture; less is hidden for all that matters
IOU_SHARE = 0.5  # of a map's maximum: what is above belongs to what the map marks


@dataclass(frozen=True)
class Pointed:
    """How one map fares against one mask."""

    strict: bool  # the peak is on the thing
    near: bool  # or at most one cell of the map away from it
    iou: float  # of what lies above IOU_SHARE of the maximum, and the thing
    area: float  # share of the picture that the thing covers: what a blind point would hit


@dataclass(frozen=True)
class Query:
    """One thing to find: what the whole sentence is about, or what one of its words means."""

    kind: str  # of KINDS
    text: str
    word: int | None  # place in the sentence, None for the sentence itself
    mask: np.ndarray  # (H, W) bool: all that the word fits; may be too small to count


@dataclass
class Tally:
    """Counts of one kind of query."""

    found: list[Pointed] = field(default_factory=list)
    left_out: int = 0  # nothing to see of what was meant

    def to_dict(self) -> dict[str, object]:
        """Counts, rates and their 95 % Wilson intervals; None where nothing was tried."""
        n = len(self.found)
        result: dict[str, object] = {'count': n, 'left_out': self.left_out}
        for name in ('strict', 'near'):
            hits = sum(getattr(p, name) for p in self.found)
            result[name] = {
                'hits': hits,
                'rate': round(rate(hits, n), 6) if n else None,
                'ci95': [round(bound, 6) for bound in wilson_interval(hits, n)],
            }
        for name in ('iou', 'area'):
            values = [getattr(p, name) for p in self.found]
            result[f'mean_{name}'] = round(float(np.mean(values)), 6) if n else None
        return result


def judge(heat: np.ndarray, mask: np.ndarray) -> Pointed:
    """One map (rows, columns) of weights ≥ 0 against one mask (H, W).

    Where several pixels share the maximum all of them must be right: a flat map points nowhere.
    """
    height, width = mask.shape
    large = enlarge(heat, height, width)
    peaks = large >= large.max() * (1 - 1e-6)
    cell = -(-height // heat.shape[0]), -(-width // heat.shape[1])
    kernel = np.ones((2 * cell[0] + 1, 2 * cell[1] + 1), np.uint8)
    around = cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)
    marked = large >= IOU_SHARE * large.max()
    union = int((marked | mask).sum())
    return Pointed(
        bool(mask[peaks].all()),
        bool(around[peaks].all()),
        int((marked & mask).sum()) / union if union else 0.0,
        float(mask.mean()),
    )


def queries(scene: EvaluationScene, sentence: str, camera: str) -> list[Query]:
    """What there is to find of a normalised sentence in one camera of a scene.

    The sentence's own referent is asked for where it is on the table; a colour means all objects
    (and trays) of that colour, a shape all of that shape.
    """
    splits = load_splits()
    kinds = dict.fromkeys(splits.colors, 'colour') | dict.fromkeys(splits.shapes, 'shape')
    kinds |= dict.fromkeys((*splits.trays, 'tray'), 'tray')
    words = sentence.split()
    found = []
    if scene.target in scene.objects:
        referent = scene.mask(camera, *scene.target)
        found.append(Query('sentence', ' '.join(scene.target), None, referent))
    for place, word in enumerate(words):
        if word in kinds:
            found.append(Query(kinds[word], word, place, scene.mask(camera, word)))
    return found


def tally(judged: Iterable[tuple[Query, np.ndarray]]) -> dict[str, Tally]:
    """Kind → counts, from queries and their maps (rows, columns)."""
    counts: dict[str, Tally] = {}
    for query, heat in judged:
        one = counts.setdefault(query.kind, Tally())
        if int(query.mask.sum()) < MIN_PIXELS:
            one.left_out += 1
        else:
            one.found.append(judge(heat, query.mask))
    return counts
