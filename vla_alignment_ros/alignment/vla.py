"""Three-way vision–language–action alignment with a fused(vision, language) ↔ action verifier.

* vision ↔ language by late interaction: a sentence fits a scene as well as its best region does
  (a soft maximum over image tokens), so the score answers "is what is named here?". Sentences
  that name the same thing are each other's positives whatever is to be done with it, and
  approaches count most: later the arm itself shows what it was told, and a score that reads the
  arm would be high for whatever the arm happens to do.
* fused(vision, language) ↔ action: "does this chunk do what was said, here?", with the other
  rows' actions as negatives and the same scene read with a *swapped* sentence as a hard one.
* vision ↔ action and language ↔ action on pooled vectors close the triangle.

Positives: vision ↔ language, whatever names the same thing; language ↔ action, the sentences of
one paraphrase group; the pairs with an image-specific side (vision ↔ action, fused ↔ action), the
row itself. Each pair has a multi-positive InfoNCE term; the three plain pairs also have a triplet
term with the hardest valid negative.
"""

from __future__ import annotations

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput, AlignmentStrategy
from vla_alignment_ros.alignment.losses import (
    hardest_triplet,
    LogitScale,
    multi_positive_info_nce,
    same_group,
    symmetric_info_nce,
)
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures

# one chunk of a few steps tells little of which sentence it serves, so these two only steady
PAIR_WEIGHTS = {'vl': 1.0, 'vl_late': 0.3, 'va': 0.3, 'la': 0.3}
REGION_SHARPNESS = 20.0  # of the soft maximum over image tokens, on cosines


def _head(width: int, embed: int) -> nn.Sequential:
    # LayerNorm, not BatchNorm: rows must not leak into each other through their statistics
    return nn.Sequential(
        nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, embed)
    )


class VlaAlignment(AlignmentStrategy):
    """See the module's docstring.

    Args:
        width: D of the towers.
        embed: E of the shared space.
        triplet_weight: weight of the triplet terms relative to the InfoNCE terms.
        margin: of the triplet, in cosine.
    """

    def __init__(
        self, width: int, embed: int = 64, triplet_weight: float = 0.5, margin: float = 0.2
    ) -> None:
        super().__init__()
        self.region = nn.Linear(width, embed)  # once per image token: kept plain
        self.words = _head(width, embed)
        self.vision = nn.Linear(width, embed)
        self.language = nn.Linear(width, embed)
        self.action = nn.Linear(width, embed)
        self.fused = _head(width, embed)
        self.verified = _head(width, embed)
        self.scales = nn.ModuleDict({name: LogitScale() for name in ('vl', 'va', 'la', 'vla')})
        self.triplet_weight, self.margin = triplet_weight, margin

    # -- scores ---------------------------------------------------------------------------------

    def _regions(self, vision: VisionFeatures) -> torch.Tensor:
        return F.normalize(self.region(vision.tokens), dim=-1)  # (B, N, E)

    def region_logits(self, vision: VisionFeatures, words: torch.Tensor) -> torch.Tensor:
        queries = F.normalize(self.words(words), dim=-1)  # (B, Q, E)
        return REGION_SHARPNESS * queries @ self._regions(vision).transpose(1, 2)  # (B, Q, N)

    def vision_language(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        logits = self.region_logits(vision, language.pooled.unsqueeze(1)).squeeze(1)  # (B, N)
        return soft_maximum(logits) / REGION_SHARPNESS

    def vision_language_action(self, fused: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        anchor = F.normalize(self.fused(fused), dim=-1).unsqueeze(1)  # (B, 1, E)
        candidates = F.normalize(self.verified(action), dim=-1)  # (B, K, E)
        return (anchor * candidates).sum(-1)  # (B, K)

    # -- losses ---------------------------------------------------------------------------------

    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        group = same_group(inputs.group, inputs.group)  # (B, B)
        own = torch.eye(len(inputs.group), dtype=torch.bool, device=group.device)
        regions = self._regions(inputs.vision)  # (B, N, E)
        query = F.normalize(self.words(inputs.language.pooled), dim=-1)  # (B, E)
        v = F.normalize(self.vision(inputs.vision.pooled), dim=-1)
        l = F.normalize(self.language(inputs.language.pooled), dim=-1)  # noqa: E741
        a = F.normalize(self.action(inputs.action), dim=-1)
        # (B scenes, B sentences): the late interaction of every scene with every sentence
        interaction = torch.einsum('bne,me->bmn', regions, query)
        vl = soft_maximum(REGION_SHARPNESS * interaction) / REGION_SHARPNESS
        early = inputs.approach
        named = same_group(inputs.referent, inputs.referent)  # (B, B)
        pairs = {
            'vl': (vl[early][:, early], named[early][:, early], None),
            'vl_late': (vl, named, None),
            'va': (v @ a.T, own, group),
            'la': (l @ a.T, group, None),
        }
        losses = {}
        for name, (similarity, positives, ignore) in pairs.items():
            scale = self.scales[name.split('_')[0]]()
            weight = PAIR_WEIGHTS[name]
            contrast = symmetric_info_nce(scale * similarity, positives, ignore)
            hardest = hardest_triplet(similarity, positives, self.margin, ignore)
            losses[f'align_{name}'] = weight * contrast
            losses[f'triplet_{name}'] = weight * self.triplet_weight * hardest
        losses['align_vla'], diagnostics = self._verifier_loss(inputs, own)
        diagnostics['vl_margin'] = _margin(vl.detach()[early], named[early])
        return AlignmentOutput(losses, diagnostics)

    def _verifier_loss(
        self, inputs: AlignmentInputs, own: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        fused = F.normalize(self.fused(inputs.fused), dim=-1)  # (B, E)
        action = F.normalize(self.verified(inputs.action), dim=-1)  # (B, E)
        scale = self.scales['vla']()
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
        return (forward + backward) / 2, {'verifier_r1': hit.mean()}

    def after_step(self) -> None:
        for scale in self.scales.values():
            scale.clamp_()


def soft_maximum(logits: torch.Tensor) -> torch.Tensor:
    """Softmax-weighted mean over the last axis: a maximum whose gradient reaches every region."""
    return (logits.float().softmax(-1) * logits).sum(-1)


def _margin(similarity: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Mean positive minus mean negative similarity; NaN-free when one kind is absent."""
    pos = similarity[positives].mean() if positives.any() else similarity.new_zeros(())
    neg = similarity[~positives].mean() if (~positives).any() else similarity.new_zeros(())
    return pos - neg
