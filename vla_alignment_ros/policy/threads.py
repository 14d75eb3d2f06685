"""How many torch threads are best on this machine, measured."""

from __future__ import annotations

from collections.abc import Callable
import os
import time

import torch

GAIN = 0.9  # of the time that fewer threads take: what more of them have to stay below


def fastest_threads(work: Callable[[], object], repeats: int = 3) -> int:
    """Do some work with one thread and with one for every core; set and return the better number.

    Many small layers cost more in synchronisation than a second core brings, all the more when
    the machine is busy; so it is measured instead of assumed, and more threads have to earn it.
    Holds for the calling thread, and for threads that begin to use torch afterwards.
    """
    best, limit_s = 1, float('inf')
    for count in sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(count)
        least_s = min(_seconds(work) for _ in range(repeats))
        if least_s < limit_s:
            best, limit_s = count, GAIN * least_s
    torch.set_num_threads(best)
    return best


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
