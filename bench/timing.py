"""Taking turns: the only way a row is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import gc
import time

import numpy as np


@dataclass
class Samples:
    """Seconds (or another unit) of one contestant, one value per turn."""

    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        self.values.append(value)

    @property
    def p50(self) -> float:
        return float(np.median(self.values))

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.values, percent))


def take_turns(
    contestants: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1
) -> dict[str, Samples]:
    """Call every contestant once a round, in order; each returns its own measured value.

    The first `warm_up` rounds are thrown away. The garbage collector rests meanwhile, and is
    given its turn between rounds, so that no contestant pays for another's rubbish.
    """
    samples = {name: Samples() for name in contestants}
    enabled = gc.isenabled()
    gc.disable()
    try:
        for number in range(-warm_up, rounds):
            for name, measure in contestants.items():
                value = measure()
                if number >= 0:
                    samples[name].add(value)
            gc.collect(0)
    finally:
        if enabled:
            gc.enable()
    return samples


def seconds(function: Callable[[], object], repeats: int = 1) -> Callable[[], float]:
    """A contestant: seconds of one call, as the mean of `repeats` calls in a row."""

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - start) / repeats

    return measure
