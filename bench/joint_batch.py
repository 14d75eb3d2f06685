"""P12: a contrastive step on a joint batch in two processes, against one with all of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile

from safetensors.torch import load_file
import torch

from bench.results import BenchError, BenchSettings, Row
from bench.timing import take_turns

BATCH, WORLD, TIMEOUT_S = 1024, 2, 300
WORST_PARITY = 1e-4  # of float32 gradients; beyond it the two do not compute the same


def run(settings: BenchSettings) -> Row:
    """One and two processes in turn, each process with the same number of threads."""
    batch, steps = settings.size(BATCH, 16), settings.size(10, 1)
    gradients: dict[int, dict[str, torch.Tensor]] = {}

    def rate(world: int) -> float:
        taken_s, gradients[world] = _launch(world, batch, steps, settings)
        return batch / taken_s

    samples = take_turns(
        {'two': lambda: rate(WORLD), 'one': lambda: rate(1)},
        rounds=settings.size(5, 1),
        warm_up=0,
    )
    parity = max(
        float((gradients[WORLD][name] - whole).abs().max() / whole.abs().max())
        for name, whole in gradients[1].items()
    )
    if parity > WORST_PARITY:
        raise BenchError(f'P12: gradients of two processes differ from those of one by {parity}')
    cores = len(os.sched_getaffinity(0))
    return Row(
        key='P12',
        title=f'contrastive step in two processes, B {batch}',
        unit='rows/s',
        ours=samples['two'].p50,
        baseline=samples['one'].p50,
        goal=1.5,
        higher_is_better=True,
        ours_is='two processes over gloo with half of the batch each: towers, '
        '`distributed_info_nce` against the rows of both, DDP',
        baseline_is='one process with the whole batch and as many threads as each of the two',
        figures={
            'largest difference of a gradient, relative to the largest gradient of its parameter':
            parity,
            'speed-up of the calmest turns (p90)': samples['two'].percentile(90)
            / samples['one'].percentile(90),
            'cores': float(cores),
        },
        note='' if cores >= WORLD * settings.threads else
        f'{cores} core(s) for {WORLD} processes: there is nothing to gain.',
    )  # fmt: skip


def _launch(
    world: int, batch: int, steps: int, settings: BenchSettings
) -> tuple[float, dict[str, torch.Tensor]]:
    """Seconds per step of the slowest process, and the gradients of the first."""
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        folder = Path(name)
        started = [
            subprocess.Popen(
                [
                    sys.executable, '-m', 'bench.joint_batch_process', str(rank), str(world),
                    str(folder / 'store'), str(folder / f'{rank}.safetensors'), str(batch),
                    str(steps), str(settings.threads),
                ],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, 'GLOO_SOCKET_IFNAME': 'lo'},
            )
            for rank in range(world)
        ]  # fmt: skip
        try:
            outputs = [process.communicate(timeout=TIMEOUT_S) for process in started]
        except subprocess.TimeoutExpired as error:
            raise BenchError(f'P12: no answer within {TIMEOUT_S} s') from error
        finally:
            for process in started:
                process.kill()
                process.wait()
        if any(process.returncode for process in started):
            raise BenchError('P12 failed:\n' + '\n'.join(err[-2000:] for _, err in outputs))
        taken_s = max(json.loads(out)['seconds'] for out, _ in outputs)
        return taken_s, load_file(folder / '0.safetensors')
