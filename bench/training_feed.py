"""P9: the trainer fed from its dataset, against the same trainer fed from memory."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
import time

import torch

from bench.inputs import record_episode
from bench.results import BenchSettings, Row
from bench.timing import take_turns
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.training.config import DataConfig, OptimizerConfig, TrainConfig
from vla_alignment_ros.training.trainer import Trainer

WORDS = ('red', 'blue', 'green', 'yellow')


def run(settings: BenchSettings) -> Row:
    """Blocks of optimiser steps, in turn: batches from the stream, or one batch held in memory."""
    torch.set_num_threads(settings.threads)
    trainer = make_trainer(settings)
    batch = trainer.config.optimizer.batch
    held = trainer.stream.at(0)
    steps = settings.size(12, 1)
    place = 0

    def streamed() -> float:
        nonlocal place
        first, place = place, place + steps
        # one step before the clock starts and one batch after it stops: the thread that prepares
        # the next batch works through every step that is timed, as in the middle of a run
        with closing(trainer.stream.iterate(first, first + steps + 2)) as batches:
            trainer.train_step(next(batches)[1], first)
            start = time.perf_counter()
            for _ in range(steps):
                step, fresh = next(batches)
                trainer.train_step(fresh, step)
            return steps * batch / (time.perf_counter() - start)

    def from_memory() -> float:
        trainer.train_step(held, place)
        start = time.perf_counter()
        for step in range(place, place + steps):
            trainer.train_step(held, step)
        return steps * batch / (time.perf_counter() - start)

    samples = take_turns(
        {'streamed': streamed, 'memory': from_memory}, rounds=settings.size(7, 1), warm_up=1
    )
    start = time.perf_counter()
    for step in range(settings.size(20, 1)):
        trainer.stream.at(step)
    prepare_ms = (time.perf_counter() - start) / settings.size(20, 1) * 1e3
    return Row(
        key='P9',
        title='training, fed from the dataset',
        unit='frames/s',
        ours=samples['streamed'].p50,
        baseline=samples['memory'].p50,
        goal=0.9,
        higher_is_better=True,
        ours_is='`Trainer.train_step` on the batches of its own stream (memory-mapped cache of '
        'recorded bags, next batch prepared by a thread)',
        baseline_is='`Trainer.train_step` of the same trainer on one batch held in memory',
        figures={
            'samples per batch': float(batch),
            'samples in the dataset': float(len(trainer.train_set)),
            'one batch prepared alone, ms': prepare_ms,
        },
    )


def make_trainer(settings: BenchSettings) -> Trainer:
    """A trainer of the default model on freshly recorded bags of the shipped embodiment."""
    embodiment = Embodiment.load('tabletop')
    root = settings.folder / 'demonstrations'
    for number in range(settings.size(8, 2)):
        text = f'pick up the {WORDS[number % len(WORDS)]} cube'
        record_episode(root, embodiment, settings.size(250, 12), text, seed=number)
    config = TrainConfig(
        data=DataConfig(val_fraction=0.1),
        optimizer=replace(OptimizerConfig(), batch=settings.size(OptimizerConfig.batch, 4)),
        threads=settings.threads,
    )
    return Trainer(config, [root], settings.folder / 'run')
