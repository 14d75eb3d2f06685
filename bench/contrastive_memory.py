"""P7M: peak memory of the contrastive loss without the matrix of all pairs."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.contrastive import BASELINE, BASELINE_IS, BATCH, OURS, OURS_IS, WIDTH
from bench.results import BenchError, BenchSettings, Row
from bench.timing import take_turns

MIB = 2**20


def run(settings: BenchSettings) -> Row:
    """Each side in a fresh process."""
    batch = settings.size(BATCH, 1024)
    samples = take_turns(
        {
            side: lambda side=side: _peak_mib(side, batch, settings)
            for side in (OURS, BASELINE)
        },
        rounds=settings.size(3, 1),
        warm_up=0,
    )
    kind = 'resident memory' if settings.device == 'cpu' else "memory of the GPU's own"
    return Row(
        key='P7M',
        title=f'contrastive loss, peak memory, B {batch}, D {WIDTH}',
        unit='MiB',
        ours=samples[OURS].p50,
        baseline=samples[BASELINE].p50,
        goal=0.35,
        ours_is=f'most {kind} of a fresh process beyond the inputs: {OURS_IS}',
        baseline_is=BASELINE_IS,
        figures={
            'inputs and as much again for their gradients, MiB': 2 * 2 * batch * WIDTH * 4 / MIB,
            'one matrix of all pairs, MiB': batch**2 * 4 / MIB,
        },
    )


def _peak_mib(side: str, batch: int, settings: BenchSettings) -> float:
    command = [
        sys.executable, '-m', 'bench.contrastive', side, str(batch), str(WIDTH),
        str(settings.threads), settings.device,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchError(f'the step of {side} failed:\n{result.stderr[-2000:]}')
    return json.loads(result.stdout)['bytes'] / MIB
