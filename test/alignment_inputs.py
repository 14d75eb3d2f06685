"""Small real towers and batches for the tests of alignment strategies."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import torch

from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentStrategy
from vla_alignment_ros.encoders.language import LanguageFeatures, LanguageTower
from vla_alignment_ros.encoders.vision import VisionFeatures, VisionTower

WIDTH, WORDS, VOCABULARY = 16, 5, 12


def make_towers(seed: int = 0) -> tuple[VisionTower, LanguageTower]:
    """A vision tower of 6 image tokens and a language tower, D = WIDTH."""
    torch.manual_seed(seed)
    vision = VisionTower('resnet_micro', {'front': (24, 16)}, WIDTH)
    return vision, LanguageTower(VOCABULARY, WIDTH, layers=1, heads=2)


def make_inputs(
    towers: tuple[VisionTower, LanguageTower],
    batch: int = 6,
    sentences: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> AlignmentInputs:
    """A batch whose rows share `sentences` sentences of different lengths.

    What a sentence names is in its own scene and, at random, in others. Features are detached.
    """
    vision, language = towers
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(batch) % sentences  # (B,)
    words = torch.randint(2, VOCABULARY, (sentences, WORDS), generator=generator)
    for row in range(sentences):
        words[row, 1 + (row + 1) % WORDS :] = 0  # 2, 3, … words, then pads
    images = {'front': torch.randint(256, (batch, 24, 16, 3), generator=generator)}
    images['front'] = images['front'].to(torch.uint8)
    there = torch.rand(batch, sentences, generator=generator) < 0.3  # (B, sentences)
    there[torch.arange(batch), which] = True
    was = vision.training, language.training
    vision.eval(), language.eval()
    with torch.no_grad():
        seen, said = vision(images), language(words[which])
    vision.train(was[0]), language.train(was[1])
    action = torch.randn(batch, WIDTH, generator=generator)
    return AlignmentInputs(
        vision=cast(seen, dtype),
        language=cast(said, dtype),
        group=which,
        referent=which,
        approach=torch.arange(batch) % 4 != 3,
        present=there[:, which],
        task=which % 3,  # 0: not known
        named=torch.full((batch,), -1),
        holds=torch.zeros(batch, 1, dtype=torch.bool),
        images=images,
        action=action.to(dtype),
    )


def plain_inputs(
    regions: torch.Tensor,
    words: torch.Tensor,
    referent: torch.Tensor,
    present: torch.Tensor | None = None,
    task: torch.Tensor | None = None,
) -> AlignmentInputs:
    """A batch of approaches from features: regions (B, N, D), words (B, L, D) without pads."""
    said = LanguageFeatures(
        tokens=words,
        words=words,
        ids=torch.ones(words.shape[:2], dtype=torch.long),
        mask=torch.ones(words.shape[:2], dtype=torch.bool),
        pooled=words.mean(1),
    )
    return AlignmentInputs(
        vision=VisionFeatures(regions, regions.mean(1), torch.zeros(regions.shape[1], 2), ()),
        language=said,
        group=referent,
        referent=referent,
        approach=torch.ones(len(referent), dtype=torch.bool),
        present=referent.unsqueeze(1) == referent if present is None else present,
        task=torch.zeros_like(referent) if task is None else task,
        named=torch.full_like(referent, -1),
        holds=torch.zeros(len(referent), 1, dtype=torch.bool),
    )


def cast(
    features: VisionFeatures | LanguageFeatures, dtype: torch.dtype
) -> VisionFeatures | LanguageFeatures:
    """Features with every floating tensor as `dtype`."""
    changed = {}
    for part in dataclasses.fields(features):
        value = getattr(features, part.name)
        if torch.is_tensor(value) and value.is_floating_point():
            changed[part.name] = value.to(dtype)
    return dataclasses.replace(features, **changed)


def rows(inputs: AlignmentInputs, index: torch.Tensor) -> AlignmentInputs:
    """The batch's rows `index`, in its order."""
    vision = dataclasses.replace(
        inputs.vision, tokens=inputs.vision.tokens[index], pooled=inputs.vision.pooled[index]
    )
    return dataclasses.replace(
        inputs,
        vision=vision,
        language=inputs.language.rows(index),
        present=inputs.present[index][:, index],
        images={name: pixels[index] for name, pixels in inputs.images.items()},
        **{
            name: getattr(inputs, name)[index]
            for name in ('group', 'referent', 'approach', 'task', 'named', 'holds', 'action')
        },
    )


def with_features(inputs: AlignmentInputs, **tensors: torch.Tensor) -> AlignmentInputs:
    """The batch with some of `vision_tokens`, `vision_pooled`, `language_tokens`, … replaced."""
    changed = {'vision': {}, 'language': {}}
    for name, value in tensors.items():
        side, part = name.split('_')
        changed[side][part] = value
    return dataclasses.replace(
        inputs,
        vision=dataclasses.replace(inputs.vision, **changed['vision']),
        language=dataclasses.replace(inputs.language, **changed['language']),
    )


def total_loss(strategy: AlignmentStrategy, inputs: AlignmentInputs) -> torch.Tensor:
    """All losses of a batch together."""
    return torch.stack(list(strategy(inputs).losses.values())).sum()


def repeated_instructions() -> Callable[[], AlignmentInputs]:
    """Makes batches of 16 rows that share 4 sentences, each about its own noisy scene."""
    scenes, sentences = torch.randn(4, WIDTH), torch.randn(4, WIDTH)

    def batch() -> AlignmentInputs:
        which = torch.randint(4, (16,))
        seen = scenes[which] + 0.5 * torch.randn(16, WIDTH)
        return plain_inputs(seen.unsqueeze(1), sentences[which].unsqueeze(1), which)

    return batch


def train(
    strategy: AlignmentStrategy, batch: Callable[[], AlignmentInputs], steps: int, rate: float
) -> torch.Tensor:
    """Adam on fresh batches, with what a trainer calls after each step; the last loss."""
    optimizer = torch.optim.Adam(strategy.parameters(), lr=rate)
    for _ in range(steps):
        loss = total_loss(strategy, batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        strategy.after_step()
    return loss
