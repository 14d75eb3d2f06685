"""Slow copies of modules, for targets and keys that do not jump with every step (MoCo, ALBEF)."""

from __future__ import annotations

from collections.abc import Mapping
import copy

import torch
from torch import nn


class MomentumCopies(nn.Module):
    """Copies that follow their originals: copy ← rate · copy + (1 − rate) · original.

    He et al. 2020, arXiv:1911.05722. Everything follows, heads and buffers included; a buffer of
    whole numbers (a counter) is copied as it is. The copies always run in eval mode: the running
    statistics of a BatchNorm are buffers and follow the original's, so a pass through the copy
    must not update them a second time, and batch statistics would tell the rows of a batch about
    each other.

    Args:
        originals: name -> module.
        rate: 0 copies, 1 never moves.
    """

    def __init__(self, originals: Mapping[str, nn.Module], rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.copies = nn.ModuleDict({k: copy.deepcopy(m) for k, m in originals.items()})
        self.copies.requires_grad_(False)
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))
        self.eval()

    def train(self, mode: bool = True) -> MomentumCopies:
        """Stay in eval mode, whatever the model around the copies does."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, originals: Mapping[str, nn.Module]) -> None:
        """One step towards the originals; call it after each optimiser step."""
        for name, original in originals.items():
            mine = self.copies[name]
            pairs = [*zip(mine.parameters(), original.parameters())]
            pairs += zip(mine.buffers(), original.buffers())
            for slow, fast in pairs:
                if slow.is_floating_point():
                    slow.mul_(self.rate).add_(fast, alpha=1 - self.rate)
                else:
                    slow.copy_(fast)
        self.steps.add_(1)
