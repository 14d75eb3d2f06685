"""CLIP: a global dual encoder trained with a symmetric contrast over the batch.

Scene and sentence are one vector each; the cosine of the two, times a learned inverse temperature,
is a logit, and each row and each column is a classification (Radford et al. 2021,
arXiv:2103.00020). With repeated instructions there are several right answers, so the targets are
uniform over all that is known to fit (UniCL, Yang et al. 2022, arXiv:2204.03610).
"""

from __future__ import annotations

import torch

from vla_alignment_ros.alignment.approach import approach_margin, in_batch
from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput
from vla_alignment_ros.alignment.dual_encoder import DualEncoder
from vla_alignment_ros.alignment.heads import projection_head
from vla_alignment_ros.alignment.losses import LogitScale, symmetric_info_nce


class ClipAlignment(DualEncoder):
    """See the module's docstring.

    Args:
        width: D of the towers.
        embed: E of the shared space.
    """

    def __init__(self, width: int, embed: int = 64) -> None:
        super().__init__(projection_head(width, embed), projection_head(width, embed))
        self.scale = LogitScale()

    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        similarity = self.similarity(inputs.vision, inputs.language)  # (B, B)
        losses = in_batch(similarity, inputs, self._contrast)
        margin = approach_margin(similarity, inputs)
        return AlignmentOutput(losses, {'vl_margin': margin, 'scale': self.scale().detach()})

    def _contrast(self, similarity: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        return symmetric_info_nce(self.scale() * similarity, positives)

    def after_step(self) -> None:
        self.scale.clamp_()
