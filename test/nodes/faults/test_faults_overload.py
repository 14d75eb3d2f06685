"""Five times more images than can be decided on: nothing queues, nothing grows.

`bench/overload.py` measures the same in a process of its own; here ages are taken where inference
begins.
"""

from __future__ import annotations

import threading
import time

from decision_bench import OPEN_GATE, SENTENCE, SightedPolicy
from memory import resident_mb
import numpy as np
import pytest
from tabletop_robot import start

from bench.traffic import Sensors

DECISION_S = 0.04
OVERLOAD = 5
GROWTH_MB = 30.0  # queued, ten seconds of what is too much would be twice that


class SlowPolicy(SightedPolicy):
    """Takes its time, and remembers how old every observation was when it began."""

    def __init__(self) -> None:
        super().__init__()
        self.ages_s: list[float] = []
        self._never = threading.Event()

    def step(self, observation, candidates=1, seed=None, plan=None):
        self.ages_s.append((time.time_ns() - observation.ts_ns) * 1e-9)
        self._never.wait(DECISION_S)
        return super().step(observation, candidates, seed, plan)


@pytest.mark.timeout(300)
@pytest.mark.parametrize('seconds', [3, pytest.param(60, marks=pytest.mark.long)])
def test_frames_that_are_decided_on_stay_young_under_five_times_too_many(
    ros, checkpoint, seconds
):
    robot, node = start(ros, checkpoint)
    policy = SlowPolicy()
    node._loop.pipeline.exchange(policy, OPEN_GATE)
    sensors = Sensors(ros.client, robot.embodiment, SENTENCE)
    for publisher in sensors.publishers.values():
        ros.matched(publisher)
    flood = threading.Event()  # never set: it just lasts
    with sensors.running(OVERLOAD / DECISION_S):
        ros.until(lambda: len(policy.ages_s) > 5, 'decisions')
        begin, published = len(policy.ages_s), sensors.published
        flood.wait(seconds / 3)
        resident, kept = resident_mb(), node._loop.buffer.kept_bytes()
        flood.wait(seconds * 2 / 3)
        grown = resident_mb() - resident
        ages_ms = np.array(policy.ages_s[begin:]) * 1e3
        published = sensors.published - published
        kept_at_last = node._loop.buffer.kept_bytes()
    assert published > 2 * len(ages_ms) > 20, 'no overload'
    tenth = max(3, len(ages_ms) // 10)
    first, last = np.median(ages_ms[:tenth]), np.median(ages_ms[-tenth:])
    assert last <= 3 * first + 50.0, f'age at inference: {first:.0f} ms, later {last:.0f} ms'
    assert grown < GROWTH_MB, f'{grown:.0f} MB more than after a third of the time'
    # history is a second of each source, however much of it
    second = OVERLOAD / DECISION_S * 2 * 128 * 128 * 3
    assert max(kept.values()) < second and max(kept_at_last.values()) < second
