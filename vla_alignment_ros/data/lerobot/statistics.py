"""Statistics of features as LeRobot keeps them: of every episode, and of all together.

Of an episode they are exact (images: of evenly spread frames). Of all together so are count, mean,
deviation, minimum and maximum; quantiles are those of the episode that lies furthest out, which is
LeRobot's own rule: lists of quantiles cannot be merged exactly.
"""

from __future__ import annotations

import numpy as np

Stats = dict[str, np.ndarray]  # name of the statistic -> value, in the shape of the feature
QUANTILES = {'q01': 0.01, 'q10': 0.10, 'q50': 0.50, 'q90': 0.90, 'q99': 0.99}
SAMPLED_FRAMES = 100  # of an episode
LARGE_SIDE, SAMPLED_SIDE = 300, 150  # pixels: larger images are read in steps


def of_rows(values: np.ndarray) -> Stats:
    """Of numbers: (T, D), or (T,) for a single number a row; statistics are (D,)."""
    values = values.reshape(len(values), -1).astype(np.float64)
    stats = {
        'min': values.min(axis=0),
        'max': values.max(axis=0),
        'mean': values.mean(axis=0),
        'std': values.std(axis=0),
        'count': np.array([len(values)]),
    }
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return stats | dict(zip(QUANTILES, quantiles))


class ImageStats:
    """Of the frames of one episode, as they come; statistics are (3, 1, 1), in 0..1.

    Args:
        frames: how many will come.
    """

    def __init__(self, frames: int) -> None:
        self._every = max(1, frames // SAMPLED_FRAMES)
        self._seen = self._taken = 0
        self._histogram = np.zeros((3, 256), np.int64)  # of all 8-bit values: exact

    def add(self, image: np.ndarray) -> None:
        """Take one frame, (height, width, 3) uint8."""
        self._seen += 1
        if (self._seen - 1) % self._every:
            return
        self._taken += 1
        side = max(image.shape[:2])
        step = 1 if side < LARGE_SIDE else side // SAMPLED_SIDE
        pixels = image[::step, ::step].reshape(-1, 3)
        for channel, counts in enumerate(self._histogram):
            counts += np.bincount(pixels[:, channel], minlength=256)

    def result(self) -> Stats:
        """The statistics of what came."""
        values = np.arange(256) / 255
        total = self._histogram.sum(axis=1)  # (3,)
        mean = self._histogram @ values / total
        square = self._histogram @ values**2 / total
        cumulated = self._histogram.cumsum(axis=1)  # (3, 256)

        def at_least(count: np.ndarray) -> np.ndarray:
            """The value (3,) up to which that many pixels go."""
            return values[(cumulated < count[:, None]).sum(axis=1)]

        stats = {
            'min': at_least(np.ones(3)),
            'max': at_least(total),
            'mean': mean,
            'std': np.sqrt(np.maximum(square - mean**2, 0)),
        }
        stats |= {name: at_least(np.maximum(q * total, 1)) for name, q in QUANTILES.items()}
        shaped = {name: value.reshape(3, 1, 1) for name, value in stats.items()}
        return {**shaped, 'count': np.array([self._taken])}


def merge(first: Stats | None, second: Stats) -> Stats:
    """Of two sets of samples together."""
    if first is None:
        return second
    n, m = int(first['count'][0]), int(second['count'][0])
    mean = (n * first['mean'] + m * second['mean']) / (n + m)
    square = sum(
        k * (part['std'] ** 2 + (part['mean'] - mean) ** 2)
        for k, part in ((n, first), (m, second))
    )
    merged = {
        'min': np.minimum(first['min'], second['min']),
        'max': np.maximum(first['max'], second['max']),
        'mean': mean,
        'std': np.sqrt(square / (n + m)),
        'count': np.array([n + m]),
    }
    for name, q in QUANTILES.items():
        outermost = np.minimum if q <= 0.5 else np.maximum
        merged[name] = outermost(first[name], second[name])
    return merged
