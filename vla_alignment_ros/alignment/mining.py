"""Hard negatives from earlier batches, for whatever strategy gives the scores.

A batch holds few pairs that nearly match, and once it can tell all others apart it teaches little.
So the embeddings of earlier batches are kept, and after a warm-up each scene is pushed away from
those sentences that look most like a match and are none, and each sentence from such scenes: a
hinge on the cosine of `AlignmentStrategy.embed` (VSE++, Faghri et al. 2018, arXiv:1707.05612; a
bank as MoCo's, He et al. 2020, arXiv:1911.05722). The match and the query have a gradient, the
bank has none.

No negatives are pairs of one thing or of one paraphrase group, and scenes that are known to hold
what a sentence names; each side's notes are kept with its embeddings, so that holds for earlier
batches too. What nobody noted is not known: where scenes hold more than is noted, the hardest
negatives are the scenes that do. Approaches alone are mined and kept: see `approach`.
"""

from __future__ import annotations

import torch
from torch import nn

from vla_alignment_ros.alignment.bank import HardNegativeMiner, MemoryBank
from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput, AlignmentStrategy
from vla_alignment_ros.alignment.labels import known_present
from vla_alignment_ros.alignment.losses import same_group
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures
from vla_alignment_ros.errors import ConfigError


class NegativeMining(nn.Module):
    """See the module's docstring. Its state serves training alone.

    Args:
        embed: E of the strategy's embeddings.
        names: K, how many names `AlignmentInputs.holds` tells of.
        weight: of the loss among the contrastive losses.
        start_step: optimiser steps before the first negatives are mined.
        negatives: per scene and per sentence.
        margin: of the hinge, in cosine.
        bank: pairs of earlier batches that are kept.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        embed: int,
        names: int,
        weight: float,
        start_step: int = 500,
        negatives: int = 4,
        margin: float = 0.2,
        bank: int = 2048,
    ) -> None:
        super().__init__()
        if weight <= 0:
            raise ConfigError(f'the weight of mined negatives must be above 0, got {weight}')
        self.weight = weight
        self.miner = HardNegativeMiner(negatives, start_step, margin)
        number = torch.zeros((), dtype=torch.int64)
        notes = {
            'group': number,
            'named': number,
            'holds': torch.zeros(names, dtype=torch.bool),
        }
        self.bank = MemoryBank(bank, embed, notes=notes)
        self._seen: list[dict[str, torch.Tensor]] = []  # waits for the end of the step

    def forward(
        self, embeddings: dict[str, torch.Tensor], inputs: AlignmentInputs
    ) -> AlignmentOutput:
        """The loss of a batch whose `vision` and `language` (B, E) a strategy embedded."""
        early = inputs.approach.nonzero().squeeze(1)
        scenes, sentences = embeddings['vision'][early], embeddings['language'][early]
        referent, group, named = (
            getattr(inputs, name)[early] for name in ('referent', 'group', 'named')
        )
        holds = self._holds(inputs)[early]
        if self.training:
            self._seen.append(
                {
                    'ids': referent, 'group': group, 'named': named, 'holds': holds,
                    'vision': scenes.detach(), 'language': sentences.detach(),
                }
            )  # fmt: skip
        bank = self.bank
        alike = same_group(group, bank.rows('group'))  # (b, Q)
        fits = known_present(referent, holds, bank.ids, bank.rows('named'))
        shows = known_present(bank.ids, bank.rows('holds'), referent, named).T
        positive = (scenes * sentences).sum(-1)
        sides = (
            self.miner.loss(
                scenes, referent, positive, bank.rows('language'), bank.ids, alike | fits
            ),
            self.miner.loss(
                sentences, referent, positive, bank.rows('vision'), bank.ids, alike | shows
            ),
        )
        found = torch.tensor(float(len(bank)), device=positive.device)
        return AlignmentOutput({'hinge': self.weight * sum(sides) / 2}, {'bank': found})

    def _holds(self, inputs: AlignmentInputs) -> torch.Tensor:
        """(B, K) as the bank keeps it, also where nothing is known."""
        if inputs.holds is None:
            known = self.bank.rows('holds')
            return known.new_zeros(len(inputs.referent), known.shape[1])
        return inputs.holds

    def after_step(self) -> None:
        """Call after each optimiser step: the batch goes into the bank."""
        for seen in self._seen:
            self.bank.enqueue(**seen)
        self._seen.clear()
        self.miner.after_step()


@torch.no_grad()
def embedding_width(strategy: AlignmentStrategy, width: int) -> int:
    """E of what a strategy for towers of width D embeds, found by embedding an empty scene."""
    some = next(strategy.parameters())
    token = some.new_zeros(1, 1, width)
    one = torch.ones(1, 1, dtype=torch.int64, device=some.device)
    vision = VisionFeatures(token, token[:, 0], some.new_zeros(1, 2), ())
    language = LanguageFeatures(token, token, one, one.bool(), token[:, 0])
    return strategy.embed(vision, language)['vision'].shape[1]
