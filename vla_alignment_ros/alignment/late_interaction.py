"""Late interaction: queries look for their best region, in every scene of the batch.

A query fits a scene as well as its best region does, and a sentence as well as its queries do on
average (ColBERT, Khattab and Zaharia 2020, arXiv:2004.12832; FILIP, Yao et al. 2022,
arXiv:2111.07783). Queries look for regions and not the other way round, because most of a scene is
in no sentence. Shapes: R regions per scene, Q queries per sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from vla_alignment_ros.alignment.heads import best_region


@dataclass(frozen=True)
class Level:
    """Regions and queries in one space, with rows of length 1."""

    regions: torch.Tensor  # (B, R, E)
    queries: torch.Tensor  # (M, Q, E)
    share: torch.Tensor  # (M, Q) weight of each query, 0 where padded; sums to 1, or 0 if empty


def late_interaction(level: Level, chunk: int) -> torch.Tensor:
    """How well every sentence fits every scene: (B, M).

    All queries × all regions of a batch are too many to hold, so sentences are taken `chunk` at a
    time, and the backward pass computes each chunk again instead of keeping it.
    """
    parts = zip(level.queries.split(chunk), level.share.split(chunk))
    found = [
        checkpoint(_interact, level.regions, queries, share, use_reentrant=False)
        for queries, share in parts
    ]
    return torch.cat(found, dim=1)


def _interact(
    regions: torch.Tensor, queries: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """(B, R, E), (m, Q, E), (m, Q) → (B, m)."""
    cosines = torch.einsum('bre,mqe->bmqr', regions, queries)
    return (share * best_region(cosines)).sum(-1)
