"""Vision ↔ language contrast, on approaches above all.

Later than its approach the arm itself shows what it was told, and a score that reads the arm would
be high for whatever the arm happens to do. So every strategy contrasts the approaches among
themselves, and with less weight all rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from vla_alignment_ros.alignment.base import AlignmentInputs
from vla_alignment_ros.alignment.heads import contrast_margin

LATE_WEIGHT = 0.3  # of the contrast over all rows, relative to the one over approaches


def approach_weighted(
    inputs: AlignmentInputs, loss: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """`vl`, the loss of the approaches, and `vl_late`, the loss of all rows.

    Args:
        inputs: the batch.
        loss: of the rows that it is given as an index (R,).
    """
    early = inputs.approach.nonzero().squeeze(1)
    every = torch.arange(len(inputs.approach), device=early.device)
    return {'vl': loss(early), 'vl_late': LATE_WEIGHT * loss(every)}


def approach_margin(similarity: torch.Tensor, inputs: AlignmentInputs) -> torch.Tensor:
    """For the log: how much higher approaches score with what fits than with what does not.

    similarity (B, B) of every scene with every sentence → scalar, detached.
    """
    early = inputs.approach
    return contrast_margin(similarity.detach()[early], inputs.present[early])


def in_batch(
    similarity: torch.Tensor,
    inputs: AlignmentInputs,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """`approach_weighted` where each row is compared with the batch alone.

    Args:
        similarity: (B, B) of every scene with every sentence.
        inputs: the batch; its `present` says who fits whom.
        loss: of similarities (R, R) and positives (R, R).
    """

    def of_rows(rows: torch.Tensor) -> torch.Tensor:
        return loss(similarity[rows][:, rows], inputs.present[rows][:, rows])

    return approach_weighted(inputs, of_rows)
