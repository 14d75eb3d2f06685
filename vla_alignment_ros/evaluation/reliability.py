"""Whether the alignment score is right when it is sure, and tells a match from a mismatch."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from sklearn.metrics import roc_auc_score

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Scores between two bounds, and how often they were right."""

    low: float
    high: float
    count: int
    confidence: float  # mean score
    accuracy: float  # share of matches


@dataclass(frozen=True)
class Reliability:
    """Bins that hold any score, lowest first, and the calibration error over them."""

    ece: float
    bins: tuple[Bin, ...]
    count: int

    def to_dict(self) -> dict[str, object]:
        """Plain values, None where there was no score."""
        return {
            'ece': None if math.isnan(self.ece) else round(self.ece, 6),
            'count': self.count,
            'bins': [
                {
                    'low': round(b.low, 6),
                    'high': round(b.high, 6),
                    'count': b.count,
                    'confidence': round(b.confidence, 6),
                    'accuracy': round(b.accuracy, 6),
                }
                for b in self.bins
            ],
        }


def reliability(
    probability: np.ndarray, match: np.ndarray, bins: int = BINS, adaptive: bool = False
) -> Reliability:
    """Expected calibration error: mean |accuracy − confidence| of the bins, weighted by count.

    Guo et al. 2017, arXiv:1706.04599. Bins are of equal width, or, `adaptive`, of equal count
    (Nguyen & O'Connor 2015, arXiv:1508.05154); equal scores then share a bin.

    Args:
        probability: (n,) scores in 0…1.
        match: (n,) bool, whether the sentence fits the scene.
    """
    p, y = np.asarray(probability, np.float64), np.asarray(match, bool)
    if p.shape != y.shape or p.ndim != 1:
        raise ValueError(f'need as many scores as matches, got {p.shape} and {y.shape}')
    if not ((p >= 0) & (p <= 1)).all():  # also false for nan
        raise ValueError('scores must be probabilities in 0…1')
    if not len(p):
        return Reliability(math.nan, (), 0)
    if adaptive:
        # each edge is the first score of its bin
        edges = np.unique(np.sort(p)[np.arange(1, bins) * len(p) // bins])
    else:
        edges = np.linspace(0, 1, bins + 1)[1:-1]
    place = np.searchsorted(edges, p, side='right')
    bounds = np.r_[0.0, edges, 1.0]
    found, error = [], 0.0
    for index in np.unique(place):
        inside = place == index
        low, high = float(bounds[index]), float(bounds[index + 1])
        one = Bin(low, high, int(inside.sum()), float(p[inside].mean()), float(y[inside].mean()))
        error += one.count / len(p) * abs(one.accuracy - one.confidence)
        found.append(one)
    return Reliability(error, tuple(found), len(p))


def auroc(matched: np.ndarray, mismatched: np.ndarray) -> float:
    """Probability that a match scores higher than a mismatch; a tie counts half, none is nan."""
    if not len(matched) or not len(mismatched):
        return math.nan
    labels = np.r_[np.ones(len(matched)), np.zeros(len(mismatched))]
    return float(roc_auc_score(labels, np.r_[matched, mismatched]))


def score_sensitivity(own: np.ndarray, swapped: np.ndarray) -> tuple[float, int]:
    """How far the score falls when the sentence names something missing, same scene.

    own, swapped (n,): mean of own − swapped, and in how many scenes it fell at all (a tie is no
    fall).
    """
    difference = np.asarray(own, np.float64) - np.asarray(swapped, np.float64)
    if not len(difference):
        return math.nan, 0
    return float(difference.mean()), int((difference > 0).sum())


def action_sensitivity(own: np.ndarray, swapped: np.ndarray) -> float:
    """How far the action turns when the sentence names something else, same scene.

    own, swapped (n, A): mean |own − swapped| in units of mean |own|. 0: the words are ignored.
    """
    own, swapped = np.asarray(own, np.float64), np.asarray(swapped, np.float64)
    size = float(np.abs(own).mean()) if own.size else math.nan
    if not size > 0:
        return math.nan
    return float(np.abs(own - swapped).mean()) / size
