"""Dual encoders: one vector per scene, one per sentence, and their cosine.

What CLIP, SigLIP, ALIGN and the mixture of experts have in common is here: how two projections
become scores and regions; a subclass says how they are trained. Regions come from the *same*
projection, applied to each image token instead of to their mean, as MaskCLIP does (Zhou et al.
2022, arXiv:2112.01071), so no label and no parameter is needed for them.
"""

from __future__ import annotations

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.base import AlignmentStrategy
from vla_alignment_ros.alignment.heads import REGION_SHARPNESS
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures


class DualEncoder(AlignmentStrategy):
    """Scores of two projections into one space; a subclass adds `forward`.

    Args:
        vision, language: D → E, of scenes and of sentences.
    """

    def __init__(self, vision: nn.Module, language: nn.Module) -> None:
        super().__init__()
        self.vision = vision
        self.language = language

    def project_scene(self, features: torch.Tensor, vision: VisionFeatures) -> torch.Tensor:
        """Features (B, …, D) of the scenes `vision` → (B, …, E)."""
        return self.vision(features)

    def project_sentence(self, features: torch.Tensor, language: LanguageFeatures) -> torch.Tensor:
        """Features (M, …, D) of the sentences `language` → (M, …, E)."""
        return self.language(features)

    # -- scores ---------------------------------------------------------------------------------

    def embed(
        self, vision: VisionFeatures, language: LanguageFeatures
    ) -> dict[str, torch.Tensor]:
        return {
            'vision': F.normalize(self.project_scene(vision.pooled, vision), dim=-1),
            'language': F.normalize(self.project_sentence(language.pooled, language), dim=-1),
        }

    def similarity(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        pooled = self.embed(vision, language)
        return pooled['vision'] @ pooled['language'].T  # (B, M)

    def vision_language(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        pooled = self.embed(vision, language)
        return (pooled['vision'] * pooled['language']).sum(-1)

    def sentence_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        sentence = self.project_sentence(language.pooled, language).unsqueeze(1)  # (B, 1, E)
        return self._logits(vision, sentence).squeeze(1)

    def word_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        return self._logits(vision, self.project_sentence(language.tokens, language))

    def _logits(self, vision: VisionFeatures, queries: torch.Tensor) -> torch.Tensor:
        """(B, Q, E) queries → (B, Q, N)."""
        regions = vision.once(
            self, lambda seen: F.normalize(self.project_scene(seen.tokens, seen), dim=-1)
        )  # (B, N, E)
        return REGION_SHARPNESS * F.normalize(queries, dim=-1) @ regions.transpose(1, 2)
