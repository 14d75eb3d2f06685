"""Hierarchical alignment: the whole scene, every word and every phrase, each on its own level.

* global: the pooled sentence against the pooled scene.
* local: every word against every image token.
* semantic: every phrase against every image token. "red" and "cube" alone are found wherever
  there is something red and something cubic; the phrase must find both in one place. Phrases
  are found by a learned soft segmentation: each word is shared out over a few slots, and a slot
  that no word belongs to does not count.

Every level is the same `late_interaction`; the global one is the case of one query and one region.
The similarity is the weighted mean of the levels, and so is the loss.
"""

from __future__ import annotations

import math

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.approach import approach_margin, in_batch
from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput, AlignmentStrategy
from vla_alignment_ros.alignment.heads import best_region, projection_head, REGION_SHARPNESS
from vla_alignment_ros.alignment.late_interaction import late_interaction, Level
from vla_alignment_ros.alignment.losses import LogitScale, symmetric_info_nce
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures
from vla_alignment_ros.errors import ConfigError


class HierarchicalAlignment(AlignmentStrategy):
    """See the module's docstring.

    Args:
        width: D of the towers.
        embed: E of the shared space.
        global_weight, local_weight, semantic_weight: of the levels; they are normalised to sum
            to 1, and a level with weight 0 is left out.
        phrases: slots that a sentence's words are shared out over.
        chunk: sentences that are compared at a time, which bounds the memory.

    Raises:
        ConfigError: a weight is negative or all are 0, or a count is below 1.
    """

    def __init__(
        self,
        width: int,
        embed: int = 64,
        global_weight: float = 1.0,
        local_weight: float = 0.5,
        semantic_weight: float = 0.5,
        phrases: int = 3,
        chunk: int = 16,
    ) -> None:
        super().__init__()
        weights = {'global': global_weight, 'local': local_weight, 'semantic': semantic_weight}
        total = sum(weights.values())
        if min(weights.values()) < 0 or total <= 0:
            raise ConfigError(f'level weights must be at least 0 and not all 0, got {weights}')
        if phrases < 1 or chunk < 1:
            raise ConfigError(f'phrases and chunk must be at least 1, got {phrases} and {chunk}')
        self.weights = {name: w / total for name, w in weights.items() if w > 0}
        self.chunk = chunk
        self.scales = nn.ModuleDict({name: LogitScale() for name in self.weights})
        self.vision = nn.ModuleDict()
        self.language = nn.ModuleDict()
        for name in self.weights:
            # once per image token on the finer levels: kept plain
            plain = name != 'global'
            self.vision[name] = nn.Linear(width, embed) if plain else projection_head(width, embed)
            self.language[name] = projection_head(width, embed)
        if 'semantic' in self.weights:
            self.slots = nn.Parameter(torch.randn(phrases, width))

    # -- levels ---------------------------------------------------------------------------------

    def segment(self, language: LanguageFeatures) -> torch.Tensor:
        """How much of each word belongs to each phrase: (M, L, P); sums to 1, or 0 for a pad."""
        logits = language.tokens @ self.slots.T / math.sqrt(self.slots.shape[1])  # (M, L, P)
        return logits.softmax(-1) * language.mask.unsqueeze(-1)

    def _queries(
        self, name: str, language: LanguageFeatures
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a level looks for: (M, Q, E) of length 1, and the share (M, Q) of each."""
        mask = language.mask.to(language.tokens.dtype)  # (M, L)
        words = mask.sum(1, keepdim=True).clamp_min(1)  # (M, 1)
        if name == 'global':
            features = language.pooled.unsqueeze(1)  # (M, 1, D)
            share = mask.amax(1, keepdim=True)
        elif name == 'local':
            features = language.tokens  # (M, L, D)
            share = mask / words
        else:
            belongs = self.segment(language)  # (M, L, P)
            mass = belongs.sum(1)  # (M, P) in words
            features = belongs.transpose(1, 2) @ language.tokens  # (M, P, D)
            features = features / mass.unsqueeze(-1).clamp_min(1e-6)
            share = mass / words
        return F.normalize(self.language[name](features), dim=-1), share

    def _level(self, name: str, vision: VisionFeatures, language: LanguageFeatures) -> Level:
        if name == 'global':
            regions = F.normalize(self.vision[name](vision.pooled.unsqueeze(1)), dim=-1)
        else:
            regions = self._regions(name, vision)
        return Level(regions, *self._queries(name, language))

    # -- scores ---------------------------------------------------------------------------------

    def embed(
        self, vision: VisionFeatures, language: LanguageFeatures
    ) -> dict[str, torch.Tensor]:
        """The global level; without one, the mean of the first level's regions and queries."""
        level = self._level(next(iter(self.weights)), vision, language)
        queries = (level.share.unsqueeze(-1) * level.queries).sum(1)  # (M, E)
        return {
            'vision': F.normalize(level.regions.mean(1), dim=-1),
            'language': F.normalize(queries, dim=-1),
        }

    def level_similarities(
        self, vision: VisionFeatures, language: LanguageFeatures
    ) -> dict[str, torch.Tensor]:
        """Level -> how well every sentence fits every scene on it: (B, M) cosines."""
        return {
            name: late_interaction(self._level(name, vision, language), self.chunk)
            for name in self.weights
        }

    def similarity(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        return self._combine(self.level_similarities(vision, language))

    def vision_language(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        scores = {}
        for name in self.weights:
            level = self._level(name, vision, language)
            best = best_region(level.queries @ level.regions.transpose(1, 2))  # (B, Q)
            scores[name] = (level.share * best).sum(-1)
        return self._combine(scores)

    def sentence_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        maps = {}
        for name in self.weights:
            queries, share = self._queries(name, language)
            sentence = (share.unsqueeze(-1) * queries).sum(1, keepdim=True)  # (B, 1, E)
            maps[name] = self._cosines(name, vision, sentence).squeeze(1)
        return REGION_SHARPNESS * self._combine(maps)  # (B, N)

    def word_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        name = 'local' if 'local' in self.weights else next(iter(self.weights))
        words = F.normalize(self.language[name](language.tokens), dim=-1)  # (B, L, E)
        return REGION_SHARPNESS * self._cosines(name, vision, words)

    def _cosines(self, name: str, vision: VisionFeatures, queries: torch.Tensor) -> torch.Tensor:
        """(B, Q, E) queries against every image token → (B, Q, N), on the global level too."""
        return queries @ self._regions(name, vision).transpose(1, 2)

    def _regions(self, name: str, vision: VisionFeatures) -> torch.Tensor:
        projection = self.vision[name]
        return vision.once(
            projection, lambda seen: F.normalize(projection(seen.tokens), dim=-1)
        )  # (B, N, E)

    def _combine(self, levels: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(self.weights[name] * value for name, value in levels.items())

    # -- losses ---------------------------------------------------------------------------------

    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        losses, diagnostics = {}, {}
        levels = self.level_similarities(inputs.vision, inputs.language)
        for level, similarity in levels.items():
            scale = self.scales[level]()
            terms = in_batch(
                similarity, inputs, lambda s, p, scale=scale: symmetric_info_nce(scale * s, p)
            )
            losses |= {f'{level}_{k}': self.weights[level] * v for k, v in terms.items()}
            diagnostics[f'{level}_margin'] = approach_margin(similarity, inputs)
        diagnostics['vl_margin'] = approach_margin(self._combine(levels), inputs)
        return AlignmentOutput(losses, diagnostics)

    def after_step(self) -> None:
        for scale in self.scales.values():
            scale.clamp_()
