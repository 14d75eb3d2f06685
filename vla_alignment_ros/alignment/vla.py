"""Three-way vision–language–action alignment; with the verifier, all pairs and the fused one.

* vision ↔ language by late interaction: a sentence fits a scene as well as its best region does
  (a soft maximum over image tokens), so the score answers "is what is named here?". A sentence is
  a positive of every scene that is known to hold what it names, whatever is to be done with it.
  Approaches count most: later the arm itself shows what it was told, and a score that reads the
  arm would be high for whatever the arm happens to do.
* vision ↔ action and language ↔ action on pooled vectors close the triangle.
* fused(vision, language) ↔ action is `verifier.ActionVerifier`.

Positives: vision ↔ language, what is known to be there; language ↔ action, the sentences of one
paraphrase group; vision ↔ action, the row itself. Each pair has a multi-positive InfoNCE term and
a triplet term with the hardest valid negative.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.approach import approach_margin, in_batch
from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput, BestRegionStrategy
from vla_alignment_ros.alignment.heads import best_region, projection_head, REGION_SHARPNESS
from vla_alignment_ros.alignment.losses import (
    hardest_triplet,
    LogitScale,
    same_group,
    symmetric_info_nce,
)
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures

# of va and la: one chunk of a few steps tells little of which sentence it serves
STEADY_WEIGHT = 0.3


class VlaAlignment(BestRegionStrategy):
    """See the module's docstring.

    Args:
        width: D of the towers.
        embed: E of the shared space.
        triplet_weight: weight of the triplet terms relative to the InfoNCE terms.
        margin: of the triplet, in cosine.
        vl_weight: weight of the vision ↔ language terms; 0 in a composition whose other part
            aligns the two.
    """

    sharpness = REGION_SHARPNESS

    def __init__(
        self,
        width: int,
        embed: int = 64,
        triplet_weight: float = 0.5,
        margin: float = 0.2,
        vl_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.region = nn.Linear(width, embed)  # once per image token: kept plain
        self.words = projection_head(width, embed)
        self.vision = nn.Linear(width, embed)
        self.language = nn.Linear(width, embed)
        self.action = nn.Linear(width, embed)
        self.scales = nn.ModuleDict({name: LogitScale() for name in ('vl', 'va', 'la')})
        self.triplet_weight, self.margin, self.vl_weight = triplet_weight, margin, vl_weight

    # -- scores ---------------------------------------------------------------------------------

    def embed(
        self, vision: VisionFeatures, language: LanguageFeatures
    ) -> dict[str, torch.Tensor]:
        return {
            'vision': F.normalize(self.vision(vision.pooled), dim=-1),
            'language': F.normalize(self.language(language.pooled), dim=-1),
        }

    def similarity(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        query = F.normalize(self.words(language.pooled), dim=-1)  # (M, E)
        interaction = torch.einsum('bne,me->bmn', self._regions(vision), query)
        return best_region(interaction)  # (B, M)

    def sentence_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        return self._logits(vision, language.pooled.unsqueeze(1)).squeeze(1)

    def word_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        return self._logits(vision, language.tokens)

    def _regions(self, vision: VisionFeatures) -> torch.Tensor:
        return vision.once(
            self, lambda seen: F.normalize(self.region(seen.tokens), dim=-1)
        )  # (B, N, E)

    def _logits(self, vision: VisionFeatures, words: torch.Tensor) -> torch.Tensor:
        """(B, Q, D) queries → (B, Q, N)."""
        queries = F.normalize(self.words(words), dim=-1)  # (B, Q, E)
        return REGION_SHARPNESS * queries @ self._regions(vision).transpose(1, 2)

    # -- losses ---------------------------------------------------------------------------------

    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        group = same_group(inputs.group, inputs.group)  # (B, B)
        own = torch.eye(len(inputs.group), dtype=torch.bool, device=group.device)
        pooled = self.embed(inputs.vision, inputs.language)
        v, l = pooled['vision'], pooled['language']  # noqa: E741
        a = F.normalize(self.action(inputs.action), dim=-1)
        pairs = {'va': (v @ a.T, own, group), 'la': (l @ a.T, group, None)}
        losses, diagnostics = {}, {}
        for name, (similarity, positives, ignore) in pairs.items():
            contrast = self._contrast(name, similarity, positives, ignore)
            losses[name] = STEADY_WEIGHT * contrast
            hardest = self._triplet(similarity, positives, ignore)
            losses[f'triplet_{name}'] = STEADY_WEIGHT * hardest
        if self.vl_weight > 0:
            vl = self.similarity(inputs.vision, inputs.language)
            contrast = in_batch(vl, inputs, partial(self._contrast, 'vl'))
            hardest = in_batch(vl, inputs, self._triplet)
            losses |= {name: self.vl_weight * value for name, value in contrast.items()}
            losses |= {f'triplet_{name}': self.vl_weight * v for name, v in hardest.items()}
            diagnostics['vl_margin'] = approach_margin(vl, inputs)
        return AlignmentOutput(losses, diagnostics)

    def _contrast(
        self,
        pair: str,
        similarity: torch.Tensor,
        positives: torch.Tensor,
        ignore: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return symmetric_info_nce(self.scales[pair]() * similarity, positives, ignore)

    def _triplet(
        self,
        similarity: torch.Tensor,
        positives: torch.Tensor,
        ignore: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.triplet_weight * hardest_triplet(similarity, positives, self.margin, ignore)

    def after_step(self) -> None:
        for scale in self.scales.values():
            scale.clamp_()
