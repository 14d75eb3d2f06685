"""The verifier: does this chunk do what was said, here?  fused(vision, language) ↔ action.

Negatives, both ways of InfoNCE: for a scene read with its sentence, the other rows' chunks, which
includes the same instruction carried out towards a target that lies elsewhere; for a chunk, the
other rows' readings and the same scene read with a *swapped* sentence.
"""

from __future__ import annotations

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput
from vla_alignment_ros.alignment.heads import projection_head
from vla_alignment_ros.alignment.losses import LogitScale, multi_positive_info_nce


class ActionVerifier(nn.Module):
    """Cosine of a fused scene-and-sentence vector with an encoded chunk.

    Args:
        width: D of the towers.
        embed: E of the shared space.
    """

    def __init__(self, width: int, embed: int = 64) -> None:
        super().__init__()
        self.fused = projection_head(width, embed)
        self.action = projection_head(width, embed)
        self.scale = LogitScale()

    def scores(self, fused: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """(B, D) fused, (B, K, D) candidates → (B, K) cosine."""
        anchor = F.normalize(self.fused(fused), dim=-1).unsqueeze(1)  # (B, 1, E)
        candidates = F.normalize(self.action(action), dim=-1)  # (B, K, E)
        return (anchor * candidates).sum(-1)  # (B, K)

    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        own = torch.eye(len(inputs.group), dtype=torch.bool, device=inputs.group.device)
        fused = F.normalize(self.fused(inputs.fused), dim=-1)  # (B, E)
        action = F.normalize(self.action(inputs.action), dim=-1)  # (B, E)
        scale = self.scale()
        similarity = fused @ action.T  # (B, B)
        forward = multi_positive_info_nce(scale * similarity, own)
        # columns of the backward direction: every own reading, then every swapped reading
        logits, positives, ignore = similarity.T, own, torch.zeros_like(own)
        if inputs.fused_swapped is not None and inputs.swapped_from is not None:
            swapped = F.normalize(self.fused(inputs.fused_swapped), dim=-1)  # (B, E)
            # a swapped reading with a sentence of the same group is no negative for its own row
            same = own & (inputs.group == inputs.group[inputs.swapped_from]).unsqueeze(0)
            logits = torch.cat([logits, action @ swapped.T], dim=1)  # (B, 2B)
            positives = torch.cat([positives, torch.zeros_like(own)], dim=1)
            ignore = torch.cat([ignore, same], dim=1)
        backward = multi_positive_info_nce(scale * logits, positives, ignore)
        hit = (similarity.detach().argmax(1) == torch.arange(len(own), device=own.device)).float()
        return AlignmentOutput(
            {'vla': (forward + backward) / 2}, {'verifier_hit': hit.mean()}
        )

    def after_step(self) -> None:
        """Keep the temperature in range."""
        self.scale.clamp_()
