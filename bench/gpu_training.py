"""G2: training steps on the GPU, against the same ones on the CPU."""

from __future__ import annotations

from collections.abc import Callable
import copy
from functools import partial
import time

import torch

from bench.results import BenchSettings, Row
from bench.timing import take_turns
from bench.training_feed import make_trainer
from vla_alignment_ros.policy.model import VlaModel
from vla_alignment_ros.training.optimization import network_dtype
from vla_alignment_ros.training.step import learn
from vla_alignment_ros.training.validation import to_device

WEIGHTS = {'keyframe': 1.0, 'alignment': 0.3}


def run(settings: BenchSettings) -> Row:
    """One batch held in memory; every contestant trains a model of its own."""
    torch.set_num_threads(settings.threads)
    trainer = make_trainer(settings)
    held = trainer.stream.at(0)
    half = partial(torch.autocast, 'cuda', network_dtype('auto'))
    whole = partial(torch.autocast, 'cuda', enabled=False)
    sides = {
        'GPU': _steps(copy.deepcopy(trainer.model), held, half, settings.size(10, 1)),
        'GPU float32': _steps(copy.deepcopy(trainer.model), held, whole, settings.size(10, 1)),
        'CPU': _steps(trainer.model.cpu(), held, whole, 1),
    }
    samples = take_turns(sides, rounds=settings.size(7, 1), warm_up=1)
    return Row(
        key='G2',
        title='training on the GPU against the CPU',
        unit='frames/s',
        ours=samples['GPU'].p50,
        baseline=samples['CPU'].p50,
        goal=1.0,
        higher_is_better=True,
        ours_is='forward, backward and AdamW of the default model on one batch that is there, '
        'on the GPU with `precision` auto',
        baseline_is=f'the same in float32 on the CPU, {settings.threads} thread',
        figures={
            'GPU in float32, frames/s': samples['GPU float32'].p50,
            'samples per batch': float(len(held['sentence'])),
            'memory that the GPU held at most, MiB': torch.cuda.max_memory_allocated() / 2**20,
        },
    )


def _steps(
    model: VlaModel, held: dict, autocast: Callable, count: int
) -> Callable[[], float]:
    """A contestant: samples a second over `count` steps."""
    device = next(model.parameters()).device
    batch = to_device(held, device)
    model.alignment.bind(model.vision, model.language)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4)
    generator = torch.Generator(device).manual_seed(0)

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            _, _, total = learn(model, batch, WEIGHTS, generator, autocast=autocast)
            optimizer.step()
        float(total)  # which waits for the device
        return count * len(batch['sentence']) / (time.perf_counter() - start)

    return measure
