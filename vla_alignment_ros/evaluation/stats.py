"""Rates of success/failure counts with the interval that belongs to them."""
from __future__ import annotations

import math

Z_95 = 1.959964  # two-sided 95 % point of the normal distribution


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """
    Return the Wilson score interval of a binomial rate.

    Unlike the textbook ``p ± z·sd`` it stays inside [0, 1] and does not collapse to zero width
    when every trial succeeded, which is where small evaluations live. No trials say nothing,
    so the interval is then (0, 1).

    Raises ValueError if the counts are not a possible outcome.
    """
    if trials < 0 or not 0 <= successes <= trials:
        raise ValueError(f'{successes} successes of {trials} trials is not a possible outcome')
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    denominator = 1.0 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / denominator
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials**2)) / denominator
    # The exact bounds at 0 and n successes are 0 and 1; rounding must not miss them.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def rate(successes: int, trials: int) -> float:
    """Return successes / trials, and 0.0 where nothing was tried."""
    return successes / trials if trials else 0.0


def median(values: list[float]) -> float:
    """Return the median of the values, nan if there is none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
