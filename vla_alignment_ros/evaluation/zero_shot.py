"""Classification by words alone: which colour, which shape, which of all pairs this is.

Nothing is trained for it. A class is a handful of prompts; what is asked is how well they fit the
pixels of one object. Pairs include those that no training scene ever showed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from vla_alignment_ros.evaluation.stats import rate, wilson_interval

# Words of the training sentences only; what is put in is 'red', 'cube' or 'red cube'.
TEMPLATES = (
    'the {object}',
    'pick up the {object}',
    'grab the {object}',
    'lift the {object}',
    'take the {object}',
    'push the {object} to the left',
)
MARGIN_PIXELS = 4  # kept around an object's box


@dataclass(frozen=True)
class Classification:
    """Answers counted: `confusion` (C, C) holds how often a class (row) was called (column)."""

    labels: tuple[str, ...]
    confusion: np.ndarray

    @property
    def count(self) -> int:
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        return int(np.trace(self.confusion))

    def only(self, labels: Iterable[str]) -> Classification:
        """The objects of these classes; the answers may still be any."""
        kept = set(labels)
        rows = np.array([label in kept for label in self.labels])
        return Classification(self.labels, np.where(rows[:, None], self.confusion, 0))

    def per_class(self) -> dict[str, tuple[int, int]]:
        """Class → (right, of how many); a class without an object is left out."""
        totals = self.confusion.sum(1)
        return {
            label: (int(self.confusion[i, i]), int(totals[i]))
            for i, label in enumerate(self.labels)
            if totals[i]
        }

    def to_dict(self) -> dict[str, object]:
        """Counts, accuracy with its 95 % interval, mean over classes that have objects."""
        classes = self.per_class()
        low, high = wilson_interval(self.correct, self.count)
        means = [rate(*counts) for counts in classes.values()]
        return {
            'count': self.count,
            'correct': self.correct,
            'accuracy': round(rate(self.correct, self.count), 6) if self.count else None,
            'ci95': [round(low, 6), round(high, 6)],
            'mean_class_accuracy': round(float(np.mean(means)), 6) if means else None,
            'classes': len(self.labels),
            'classes_with_objects': len(classes),
            'per_class': {
                label: {'correct': right, 'count': count, 'accuracy': round(rate(right, count), 6)}
                for label, (right, count) in classes.items()
            },
        }


def prompts(name: str) -> list[str]:
    """The sentences that stand for a class."""
    return [template.format(object=name) for template in TEMPLATES]


def ensemble(embeddings: torch.Tensor) -> torch.Tensor:
    """Prompt embeddings (C, P, E) → one per class (C, E): normalised, averaged, normalised again.

    Radford et al. 2021, arXiv:2103.00020, section 3.1.4.
    """
    return F.normalize(F.normalize(embeddings, dim=-1).mean(1), dim=-1)


def classify(
    scores: np.ndarray, truth: Sequence[int], labels: Sequence[str]
) -> Classification:
    """The best class of every object: scores (n, C), truth (n,) index into `labels`.

    A class that ties with the true one wins against it, and so does a score that is no number:
    answers that are all alike are all wrong.
    """
    scores, truth = np.asarray(scores, np.float64), np.asarray(truth, np.int64)
    classes = len(labels)
    if scores.shape != (len(truth), classes):
        raise ValueError(f'scores {scores.shape} for {len(truth)} objects and {classes} classes')
    confusion = np.zeros((classes, classes), np.int64)
    rows = np.arange(len(truth))
    own = scores[rows, truth].copy()
    others = np.nan_to_num(scores, nan=np.inf)
    others[rows, truth] = -np.inf
    rival = others.argmax(1)
    answer = np.where(own > others[rows, rival], truth, rival)
    np.add.at(confusion, (truth, answer), 1)
    return Classification(tuple(labels), confusion)


def cover(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Share of each cell of a grid that a mask (H, W) covers: (rows, columns) float32."""
    return cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)


def isolate(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The box around a mask, alone in the picture; the rest is the picture's median colour.

    image (H, W, 3) uint8, mask (H, W) bool → (H, W, 3). The object keeps its place and its size:
    a small tower that never saw one fill the picture would not know it enlarged.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    alone = blank(image)
    if len(rows):
        top, left = max(0, rows[0] - MARGIN_PIXELS), max(0, columns[0] - MARGIN_PIXELS)
        box = np.s_[top : rows[-1] + MARGIN_PIXELS + 1, left : columns[-1] + MARGIN_PIXELS + 1]
        alone[box] = image[box]
    return alone


def blank(image: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 of nothing but the median colour of another."""
    colour = np.median(image.reshape(-1, 3), axis=0).astype(np.uint8)
    return np.broadcast_to(colour, image.shape).copy()
