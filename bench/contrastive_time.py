"""P7: time of the contrastive loss without the matrix of all pairs, against the usual form."""

from __future__ import annotations

import math

import torch

from bench.contrastive import BASELINE, BASELINE_IS, BATCH, OURS, OURS_IS, Step, WIDTH
from bench.results import BenchError, BenchSettings, Row
from bench.timing import seconds, take_turns


def run(settings: BenchSettings) -> Row:
    """Both sides on the same embeddings in one process."""
    torch.set_num_threads(settings.threads)
    batch = settings.size(BATCH, 64)
    step = Step.make(batch, WIDTH, settings.device)
    losses = {side: step.side(side)() for side in (OURS, BASELINE)}
    if not math.isclose(losses[OURS], losses[BASELINE], rel_tol=1e-4):
        raise BenchError(f'P7: the two sides do not compute the same loss: {losses}')
    samples = take_turns(
        {side: seconds(step.side(side)) for side in (OURS, BASELINE)},
        rounds=settings.size(9, 1),
    )
    ours_ms, baseline_ms = (samples[side].p50 * 1e3 for side in (OURS, BASELINE))
    return Row(
        key='P7',
        title=f'contrastive loss, B {batch}, D {WIDTH}',
        unit='ms',
        ours=ours_ms,
        baseline=baseline_ms,
        goal=0.7,
        ours_is=OURS_IS,
        baseline_is=BASELINE_IS,
        figures={
            'ratio of the calmest turns (p10)': samples[OURS].percentile(10)
            / samples[BASELINE].percentile(10),
            'loss, ours': losses[OURS],
            'loss, baseline': losses[BASELINE],
        },
    )
