"""P1T: the slowest in a hundred of what P1 measures."""

from __future__ import annotations

import torch

from bench.answer_latency import measure
from bench.results import BenchSettings, Row
from vla_alignment_ros.policy.policy import Policy

PERCENT = 99


def run(settings: BenchSettings) -> Row:
    """As P1, at the 99th percentile of each of the three."""
    torch.set_num_threads(settings.threads)
    samples, _ = measure(settings, Policy.load(settings.checkpoint))
    node, echo, forward = (
        1e3 * samples[name].percentile(PERCENT) for name in ('node', 'echo', 'forward')
    )
    return Row(
        key='P1T',
        title=f'image to command without transport, p{PERCENT}',
        unit='ms',
        ours=node - echo,
        baseline=forward,
        goal=1.5,
        ours_is='as P1, the slowest in a hundred, less that of the DDS round trip',
        baseline_is='as P1, the slowest in a hundred',
        figures={
            f'image published to command received, p{PERCENT} ms': node,
            f'DDS round trip of the two messages, p{PERCENT} ms': echo,
            f'ratio to the median of the bare forward pass, {PERCENT} to 50': (node - echo)
            / (samples['forward'].p50 * 1e3),
            'turns': len(samples['node'].values),
        },
    )
