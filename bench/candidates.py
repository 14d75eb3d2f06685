"""P14: a decision with sixteen candidate chunks, verified, against a decision with one."""

from __future__ import annotations

import torch

from bench.inputs import observation_of
from bench.results import BenchSettings, Row
from bench.timing import seconds, take_turns
from vla_alignment_ros.policy.policy import Policy

CANDIDATES = 16


def run(settings: BenchSettings) -> Row:
    """One, four and sixteen candidates take turns on the same observation."""
    torch.set_num_threads(settings.threads)
    policy = Policy.load(settings.checkpoint)
    observation = observation_of(policy)
    samples = take_turns(
        {
            str(count): seconds(lambda count=count: policy.step(observation, count, seed=0))
            for count in (1, 4, CANDIDATES)
        },
        rounds=settings.size(300, 5),
        warm_up=settings.size(20, 1),
    )
    one, four, sixteen = (samples[name] for name in ('1', '4', str(CANDIDATES)))
    return Row(
        key='P14',
        title=f'decision with {CANDIDATES} verified candidates against one',
        unit='ms',
        ours=sixteen.p50 * 1e3,
        baseline=one.p50 * 1e3,
        goal=1.5,
        ours_is=f'`Policy.step` that draws {CANDIDATES} chunks and executes the one the verifier '
        'scores highest',
        baseline_is='`Policy.step` with the one deterministic chunk, scored too',
        figures={
            'four candidates, p50 ms': four.p50 * 1e3,
            'ratio of the calmest turns (p10)': sixteen.percentile(10) / one.percentile(10),
            f'{CANDIDATES} candidates, p95 ms': sixteen.percentile(95) * 1e3,
            'one candidate, p95 ms': one.percentile(95) * 1e3,
        },
    )
