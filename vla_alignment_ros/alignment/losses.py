"""Contrastive losses for the robot's case: thousands of frames share one sentence.

Every loss takes explicit positives, because with repeated instructions the diagonal is not the
only match; perfect alignment costs nothing however often a sentence is repeated. Shapes: B rows,
M columns, K negatives. All arithmetic is float32, or float64 if the input is. What is not finite
is an `AlignmentError` and never reaches the optimiser.

These forms hold the (B, M) matrix; `streaming` computes the same without it, from ids.
"""

from __future__ import annotations

import math

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.heads import precise
from vla_alignment_ros.errors import AlignmentError, ConfigError

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


class SigmoidScale(LogitScale):
    """SigLIP's learned scale and bias: cosines → logits `scale · cosine + bias`.

    Zhai et al. 2023, arXiv:2303.15343. Nearly all pairs are negatives; the bias of −10 says so
    from the start, or the first steps would do nothing but learn it.
    """

    def __init__(self, initial: float = 10.0, bias: float = -10.0) -> None:
        super().__init__(initial)
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float32))

    def logits(self, similarity: torch.Tensor) -> torch.Tensor:
        """(B, M) cosines → (B, M) logits of the pair being a match."""
        return self() * precise(similarity) + self.bias


def same_group(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(B,) and (M,) group ids → (B, M) bool: who is a positive of whom."""
    return rows.unsqueeze(1) == columns.unsqueeze(0)


def require_finite(name: str, values: torch.Tensor) -> None:
    """Raise `AlignmentError` if a value is NaN or infinite, and say in how many rows."""
    # one cheap sum first: it is finite unless an entry is not (or the sum itself overflows)
    if bool(values.sum().isfinite()) or bool(values.isfinite().all()):
        return
    rows = int((~values.isfinite()).reshape(len(values), -1).any(1).sum()) if values.ndim else 1
    raise AlignmentError(
        f'{name} of shape {tuple(values.shape)} is not finite in {rows} row(s): look for broken '
        f'samples, or lower the learning rate'
    )


def require_pairs(values: torch.Tensor, **masks: torch.Tensor | None) -> None:
    """Raise `ConfigError` unless `values` is (B, M) and every mask is bool and of its shape."""
    if values.ndim != 2:
        raise ConfigError(f'one value per pair (B, M) is needed, got {tuple(values.shape)}')
    for name, mask in masks.items():
        if mask is None:
            continue
        if mask.shape != values.shape or mask.dtype != torch.bool:
            raise ConfigError(
                f'{name} must be bool of shape {tuple(values.shape)}, one per pair; '
                f'got {mask.dtype} of shape {tuple(mask.shape)}'
            )


def _pairs(name: str, values: torch.Tensor, **masks: torch.Tensor | None) -> torch.Tensor:
    """`values` (B, M) in a precise type, once they and their masks are known to be fit."""
    require_pairs(values, **masks)
    values = precise(values)
    require_finite(name, values)
    return values


def multi_positive_info_nce(
    logits: torch.Tensor,
    positives: torch.Tensor,
    ignore: torch.Tensor | None = None,
) -> torch.Tensor:
    """Divergence of each row's softmax from the uniform distribution over its positives.

    UniCL (Yang et al. 2022, arXiv:2204.03610), SupCon's L_out (Khosla et al. 2020,
    arXiv:2004.11362): the mean over rows of −Σ_p log softmax(logits)_p / |P|, less the entropy
    ln |P| of the targets. That constant changes no gradient, and without it a perfectly aligned
    batch would seem to cost more the more often it repeats a sentence. Rows without a positive
    do not count.

    Args:
        logits: (B, M) similarities times the logit scale.
        positives: (B, M) bool.
        ignore: (B, M) bool, pairs that are neither positive nor negative; None: none. A pair that
            is also a positive stays one.

    Returns:
        A scalar ≥ 0; 0 for an empty batch and where no row has a positive.

    Raises:
        ConfigError: the shapes do not agree.
        AlignmentError: a logit is not finite.
    """
    logits = _pairs('logits', logits, positives=positives, ignore=ignore)
    if logits.numel() == 0:
        return logits.sum()  # nothing to compare: zero, with a gradient path
    if ignore is not None:
        logits = logits.masked_fill(ignore & ~positives, float('-inf'))
    log_probability = F.log_softmax(logits, dim=1)
    count = positives.sum(1).to(logits.dtype)  # (B,)
    total = log_probability.masked_fill(~positives, 0.0).sum(1)
    # where nothing is allowed the row is NaN before it is masked: fill, do not multiply
    per_row = (-total / count.clamp_min(1) - count.clamp_min(1).log()).masked_fill(count == 0, 0)
    return per_row.sum() / (count > 0).sum().clamp_min(1)


def symmetric_info_nce(
    logits: torch.Tensor, positives: torch.Tensor, ignore: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean of both directions of `multi_positive_info_nce`."""
    require_pairs(logits, positives=positives, ignore=ignore)
    other = None if ignore is None else ignore.T
    forward = multi_positive_info_nce(logits, positives, ignore)
    return (forward + multi_positive_info_nce(logits.T, positives.T, other)) / 2


def sigmoid_loss(
    logits: torch.Tensor, positives: torch.Tensor, ignore: torch.Tensor | None = None
) -> torch.Tensor:
    """Every pair on its own: match or not (SigLIP, Zhai et al. 2023, arXiv:2303.15343).

    −Σ_ij log σ(z_ij · logit_ij) / B with z = 1 for positives and −1 for negatives; any number of
    positives per row needs no change.

    Args:
        logits: (B, M), of `SigmoidScale.logits`.
        positives: (B, M) bool.
        ignore: (B, M) bool, pairs that are neither; None: none. A positive stays one.

    Raises:
        ConfigError: the shapes do not agree.
        AlignmentError: a logit is not finite.
    """
    logits = _pairs('logits', logits, positives=positives, ignore=ignore)
    if logits.numel() == 0:
        return logits.sum()
    cost = -F.logsigmoid(torch.where(positives, logits, -logits))
    if ignore is not None:
        cost = cost.masked_fill(ignore & ~positives, 0.0)
    return cost.sum() / len(logits)


def hardest_triplet(
    similarity: torch.Tensor,
    positives: torch.Tensor,
    margin: float = 0.2,
    ignore: torch.Tensor | None = None,
) -> torch.Tensor:
    """relu(margin + s_neg − s_pos) with the hardest valid negative and the weakest positive.

    VSE++ (Faghri et al. 2018, arXiv:1707.05612) with several positives. Rows that lack a
    positive or a negative do not count.

    Raises:
        ConfigError: the shapes do not agree.
        AlignmentError: a similarity is not finite.
    """
    similarity = _pairs('similarity', similarity, positives=positives, ignore=ignore)
    if similarity.numel() == 0:
        return similarity.sum()
    negatives = ~positives if ignore is None else ~positives & ~ignore
    hardest = similarity.masked_fill(~negatives, float('-inf')).amax(1)  # (B,)
    weakest = similarity.masked_fill(~positives, float('inf')).amin(1)  # (B,)
    valid = negatives.any(1) & positives.any(1)
    if not valid.any():
        return similarity.sum() * 0.0
    return F.relu(margin + hardest[valid] - weakest[valid]).mean()


def negative_hinge(
    positive: torch.Tensor,
    negatives: torch.Tensor,
    valid: torch.Tensor,
    margin: float = 0.2,
) -> torch.Tensor:
    """Mean of relu(margin + s_neg − s_pos) over the valid negatives, as a miner finds them.

    Args:
        positive: (B,) similarity of each row with its match.
        negatives: (B, K) similarity with its negatives, scored with gradient.
        valid: (B, K) bool: which of them exist.
        margin: in cosine.

    Raises:
        ConfigError: the shapes do not agree.
        AlignmentError: a similarity is not finite.
    """
    require_pairs(negatives, valid=valid)
    if positive.shape != negatives.shape[:1]:
        raise ConfigError(
            f'positive has shape {tuple(positive.shape)}, negatives {tuple(negatives.shape)}: '
            f'one positive per row is needed'
        )
    positive, negatives = precise(positive), precise(negatives)
    require_finite('positive similarity', positive)
    require_finite('negative similarity', negatives)
    cost = F.relu(margin + negatives - positive.unsqueeze(1))
    return cost.masked_fill(~valid, 0.0).sum() / valid.sum().clamp_min(1)
