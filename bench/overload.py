"""P6: how old a frame is when a decision on it begins, under five times too many images.

Both cameras and the joint states come five times as fast as decisions can be made. Where anything
queued, ages would grow; newest-only subscriptions and undecoded buffers keep them flat. The age is
seen from outside: when a decision's report arrives, less the policy's own time, against the
stamp of its observation. It so includes the transport both ways and the sending of the command.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from bench.inputs import observation_of
from bench.results import BenchSettings, Row
from bench.traffic import NODE, served
from vla_alignment_ros.policy.policy import Policy

OVERLOAD = 5
SLACK_MS = 10.0
FEW = 20  # decisions at least
FIRST_S = 2.0  # left out: discovery, and caches that fill


def run(settings: BenchSettings) -> Row:
    """Flood a policy node and watch its decisions."""
    torch.set_num_threads(settings.threads)
    policy = Policy.load(settings.checkpoint)
    decision_s = _decision_s(policy)
    rate_hz = OVERLOAD / decision_s
    seen: list[tuple[float, float]] = []  # (when, age), s

    def note(values: dict[str, str]) -> None:
        now_ns = time.time_ns()
        age_s = (now_ns - int(values['ts_ns'])) * 1e-9 - float(values['latency_s'])
        seen.append((now_ns * 1e-9, age_s))

    with served(settings, settings.checkpoint, policy) as (client, sensors, _):
        client.on_values(f'{NODE}/decision', note)
        with sensors.running(rate_hz):
            client.until(lambda: len(seen) >= FEW, 'decisions')
            begin = seen[-1][0] + settings.size(round(FIRST_S), 0)
            end = begin + settings.size(60, 1)
            client.until(lambda: seen[-1][0] >= end, 'the flood to end')
            published = sensors.published
    ages = np.array([age for when, age in seen if when >= begin]) * 1e3
    tenth = max(1, len(ages) // 10)
    period_ms = 1e3 / policy.embodiment.rate_hz
    return Row(
        key='P6',
        title=f'age of a frame when its decision begins, {OVERLOAD}× too many images, p99',
        unit='ms',
        ours=float(np.percentile(ages, 99)),
        baseline=period_ms + SLACK_MS,
        goal=1.0,
        ours_is='stamp of an observation → policy begins on it, in a node flooded with images',
        baseline_is=f'the limit: one control period and {SLACK_MS:.0f} ms',
        figures={
            'p50, ms': float(np.median(ages)),
            'p99 of the first tenth, ms': float(np.percentile(ages[:tenth], 99)),
            'p99 of the last tenth, ms': float(np.percentile(ages[-tenth:], 99)),
            'decisions': len(ages),
            'observations published, all': published,
            'published, per second': rate_hz,
            'a decision alone, p50 ms': decision_s * 1e3,
        },
    )


def _decision_s(policy: Policy) -> float:
    observation = observation_of(policy)
    took = []
    for _ in range(25):
        start = time.perf_counter()
        policy.step(observation)
        took.append(time.perf_counter() - start)
    return float(np.median(took[5:]))
