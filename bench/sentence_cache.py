"""P3: a decision with a sentence that is known already, against one with a new sentence."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from bench.inputs import sensor_messages, sentences
from bench.results import BenchSettings, Row
from bench.timing import seconds, take_turns
from vla_alignment_ros import wire
from vla_alignment_ros.observation import ObservationAssembler
from vla_alignment_ros.policy.policy import INSTRUCTION_CACHE, Policy

GOAL = 0.65
WORDS = 8  # of a sentence


def run(settings: BenchSettings) -> Row:
    """Sentences in rotation, more than the cache keeps: each is new whenever its turn comes."""
    torch.set_num_threads(settings.threads)
    policy = Policy.load(settings.checkpoint)
    embodiment = policy.embodiment
    raw = sensor_messages(embodiment, 1, np.random.default_rng(0))
    assembler = ObservationAssembler(embodiment)
    known, *others = (
        assembler.assemble(1, {**raw, embodiment.instruction_topic: wire.encode_string(text)})
        for text in sentences(policy, 2 * INSTRUCTION_CACHE, WORDS)
    )
    rotation = itertools.cycle(others)
    policy.step(known)
    samples = take_turns(
        {
            'cached': seconds(lambda: policy.step(known)),
            'uncached': seconds(lambda: policy.step(next(rotation))),
            'language': seconds(lambda: policy.encode_instruction(next(rotation).instruction)),
        },
        rounds=settings.size(400, 5),
        warm_up=settings.size(20, 1),
    )
    cached_ms, uncached_ms = (samples[name].p50 * 1e3 for name in ('cached', 'uncached'))
    language_ms = samples['language'].p50 * 1e3
    needed_ms = cached_ms * (1 / GOAL - 1)
    return Row(
        key='P3',
        title='decision, sentence cached against new',
        unit='ms',
        ours=cached_ms,
        baseline=uncached_ms,
        goal=GOAL,
        ours_is='`Policy.step` with the sentence of the step before',
        baseline_is='`Policy.step` with a sentence of the same length that is not in the cache',
        figures={
            'saved by the cache, ms': uncached_ms - cached_ms,
            'words and language tower alone, p50 ms': language_ms,
            'cost of a sentence at which the goal is reached, ms': needed_ms,
            'ratio of the calmest turns (p10)': samples['cached'].percentile(10)
            / samples['uncached'].percentile(10),
            'cached p95, ms': samples['cached'].percentile(95) * 1e3,
            'uncached p95, ms': samples['uncached'].percentile(95) * 1e3,
        },
        note='The cache saves all there is to save: the language tower of this checkpoint has '
        f'{policy.checkpoint.model.config.language_layers} layers over {WORDS} words and is a '
        f'small part of a decision. The goal asks for a tower that is {100 * (1 - GOAL):.0f} % of '
        'an uncached one, as a large pretrained tower would be.'
        if cached_ms > GOAL * uncached_ms
        else '',
    )
