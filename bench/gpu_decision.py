"""G1: a decision on the GPU, against the same one on the CPU."""

from __future__ import annotations

import torch

from bench.inputs import observation_of
from bench.results import BenchSettings, Row
from bench.timing import seconds, take_turns
from vla_alignment_ros.policy.policy import Policy

CANDIDATES = 16


def run(settings: BenchSettings) -> Row:
    """The same observation, one policy on each device."""
    torch.set_num_threads(settings.threads)
    policies = {device: Policy.load(settings.checkpoint, device) for device in ('cuda', 'cpu')}
    observation = observation_of(policies['cpu'])
    samples = take_turns(
        {
            f'{device} {count}': seconds(
                lambda policy=policy, count=count: policy.step(observation, count, seed=0)
            )
            for device, policy in policies.items()
            for count in (1, CANDIDATES)
        },
        rounds=settings.size(300, 5),
        warm_up=settings.size(20, 1),
    )
    decisions = {name: p.step(observation, CANDIDATES, seed=0) for name, p in policies.items()}
    apart = abs(decisions['cuda'].chunk.actions - decisions['cpu'].chunk.actions).max()
    ours, theirs = (samples[f'{device} 1'] for device in ('cuda', 'cpu'))
    return Row(
        key='G1',
        title='decision on the GPU against one on the CPU',
        unit='ms',
        ours=ours.p50 * 1e3,
        baseline=theirs.p50 * 1e3,
        goal=1.0,
        ours_is='`Policy.step` with one chunk, from images in memory to an action in memory, on '
        'the GPU',
        baseline_is=f'the same on the CPU, {settings.threads} thread',
        figures={
            'GPU p95, ms': ours.percentile(95) * 1e3,
            'CPU p95, ms': theirs.percentile(95) * 1e3,
            f'GPU, {CANDIDATES} candidates, p50 ms': samples[f'cuda {CANDIDATES}'].p50 * 1e3,
            f'CPU, {CANDIDATES} candidates, p50 ms': samples[f'cpu {CANDIDATES}'].p50 * 1e3,
            'largest difference of an action (m, rad or opening)': float(apart),
        },
    )
