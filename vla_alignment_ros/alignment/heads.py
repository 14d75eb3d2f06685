"""Small parts that strategies share: projection heads and pooling over regions."""

from __future__ import annotations

import torch
from torch import nn

REGION_SHARPNESS = 20.0  # of regions' logits and of their soft maximum, on cosines


def projection_head(width: int, embed: int) -> nn.Sequential:
    """Two layers into the shared space, D → E.

    LayerNorm, not BatchNorm: rows must not leak into each other through their statistics, and a
    batch of one must work.
    """
    return nn.Sequential(
        nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, embed)
    )


def precise(values: torch.Tensor) -> torch.Tensor:
    """In float32, or in float64 if it is that already: for what half precision would ruin."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def soft_maximum(logits: torch.Tensor) -> torch.Tensor:
    """Softmax-weighted mean over the last axis: a maximum whose gradient reaches every region."""
    return (precise(logits).softmax(-1) * logits).sum(-1)


def best_region(scores: torch.Tensor, sharpness: float = REGION_SHARPNESS) -> torch.Tensor:
    """The score of the best region by a soft maximum: (…, N) → (…)."""
    return soft_maximum(sharpness * scores) / sharpness


def contrast_margin(similarity: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Mean positive minus mean negative similarity; 0 stands in for a kind that is absent."""
    pos = similarity[positives].mean() if positives.any() else similarity.new_zeros(())
    neg = similarity[~positives].mean() if (~positives).any() else similarity.new_zeros(())
    return pos - neg
