"""SigLIP: the towers of CLIP, with every pair judged on its own.

Match or not is a logistic regression on each cosine (Zhai et al. 2023, arXiv:2303.15343). Nothing
is normalised over the batch, so it makes no difference how many positives a row has or how large
the batch is, and a pair's logit is the calibrated answer to "does this sentence fit this scene?".
"""

from __future__ import annotations

import torch

from vla_alignment_ros.alignment.approach import approach_margin, in_batch
from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput
from vla_alignment_ros.alignment.dual_encoder import DualEncoder
from vla_alignment_ros.alignment.heads import projection_head
from vla_alignment_ros.alignment.losses import sigmoid_loss, SigmoidScale


class SiglipAlignment(DualEncoder):
    """See the module's docstring.

    Args:
        width: D of the towers.
        embed: E of the shared space.
        scale, bias: where logits `scale · cosine + bias` begin; both are learned.
        weight: of the loss. It adds up over all pairs of a row and so is about ten times as large
            as a contrast, beside which the other losses of a policy are set.
    """

    def __init__(
        self,
        width: int,
        embed: int = 64,
        scale: float = 10.0,
        bias: float = -10.0,
        weight: float = 0.1,
    ) -> None:
        super().__init__(projection_head(width, embed), projection_head(width, embed))
        self.weight = weight
        self.scale = SigmoidScale(scale, bias)

    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        similarity = self.similarity(inputs.vision, inputs.language)  # (B, B)
        losses = in_batch(similarity, inputs, self._contrast)
        diagnostics = {
            'vl_margin': approach_margin(similarity, inputs),
            'scale': self.scale().detach(),
            'bias': self.scale.bias.detach().clone(),
        }
        return AlignmentOutput(losses, diagnostics)

    def _contrast(self, similarity: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        return self.weight * sigmoid_loss(self.scale.logits(similarity), positives)

    def after_step(self) -> None:
        self.scale.clamp_()
