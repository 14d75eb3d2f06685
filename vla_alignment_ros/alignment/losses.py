"""Contrastive losses for the robot's case: thousands of frames share one sentence.

Every loss takes explicit positives, because with repeated instructions the diagonal is not the
only match. Shapes: B rows, M columns. All arithmetic is float32.
"""

from __future__ import annotations

import math

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.errors import ConfigError

MAX_LOG_SCALE = math.log(100.0)  # CLIP's clamp (Radford et al. 2021, arXiv:2103.00020)


class LogitScale(nn.Module):
    """CLIP's learned inverse temperature: a log-parameter kept in fp32 and within [0, ln 100]."""

    def __init__(self, initial: float = 1 / 0.07) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial), dtype=torch.float32))

    def forward(self) -> torch.Tensor:
        return self.log_scale.clamp(0.0, MAX_LOG_SCALE).exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Call after each optimiser step, so that the parameter itself stays in range."""
        self.log_scale.clamp_(0.0, MAX_LOG_SCALE)


def same_group(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(B,) and (M,) group ids → (B, M) bool: who is a positive of whom."""
    return rows.unsqueeze(1) == columns.unsqueeze(0)


def multi_positive_info_nce(
    logits: torch.Tensor,
    positives: torch.Tensor,
    ignore: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy to the uniform distribution over each row's positives.

    UniCL (Yang et al. 2022, arXiv:2204.03610), SupCon's L_out (arXiv:2004.11362): the mean over
    rows of −Σ_p log softmax(logits)_p / |P|. Rows without a positive do not count.

    Args:
        logits: (B, M) similarities times the logit scale.
        positives: (B, M) bool.
        ignore: (B, M) bool, pairs that are neither positive nor negative; None: none.

    Raises:
        ConfigError: the shapes do not agree.
    """
    if logits.shape != positives.shape:
        raise ConfigError(f'logits {tuple(logits.shape)} and positives {tuple(positives.shape)}')
    logits = logits.float()
    if logits.numel() == 0:
        return logits.sum()  # nothing to compare: zero, with a gradient path
    if ignore is not None:
        logits = logits.masked_fill(ignore & ~positives, float('-inf'))
    log_probability = F.log_softmax(logits, dim=1)
    weight = positives.float()
    count = weight.sum(1)
    per_row = -log_probability.masked_fill(~positives, 0.0).mul(weight).sum(1)
    per_row = per_row / count.clamp_min(1)
    valid = (count > 0).float()
    return (per_row * valid).sum() / valid.sum().clamp_min(1)


def symmetric_info_nce(
    logits: torch.Tensor, positives: torch.Tensor, ignore: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean of both directions of `multi_positive_info_nce`."""
    other = None if ignore is None else ignore.T
    forward = multi_positive_info_nce(logits, positives, ignore)
    return (forward + multi_positive_info_nce(logits.T, positives.T, other)) / 2


def hardest_triplet(
    similarity: torch.Tensor,
    positives: torch.Tensor,
    margin: float = 0.2,
    ignore: torch.Tensor | None = None,
) -> torch.Tensor:
    """relu(margin + s_neg − s_pos) with the hardest valid negative and the weakest positive.

    VSE++ (Faghri et al. 2018, arXiv:1707.05612) with several positives. Rows that lack a
    positive or a negative do not count.
    """
    similarity = similarity.float()
    if similarity.numel() == 0:
        return similarity.sum()
    negatives = ~positives if ignore is None else ~positives & ~ignore
    hardest = similarity.masked_fill(~negatives, float('-inf')).amax(1)  # (B,)
    weakest = similarity.masked_fill(~positives, float('inf')).amin(1)  # (B,)
    valid = negatives.any(1) & positives.any(1)
    if not valid.any():
        return similarity.sum() * 0.0
    return F.relu(margin + hardest[valid] - weakest[valid]).mean()
