"""Strategies put together: one or several parts that align words with pixels, and the verifier.

`vla+grounded` trains both parts; the scores that the gate, the pointers and the pictures use are
those of the last part, so the most specific one is named last.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import torch
from torch import nn

from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput, AlignmentStrategy
from vla_alignment_ros.alignment.mining import embedding_width, NegativeMining
from vla_alignment_ros.alignment.verifier import ActionVerifier
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures


class Alignment(nn.Module):
    """The alignment of a model: see the module's docstring.

    Args:
        parts: strategy name -> strategy, in the order of the composition.
        width: D of the towers.
    """

    def __init__(self, parts: Mapping[str, AlignmentStrategy], width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.verifier = ActionVerifier(width)
        self.mining: NegativeMining | None = None
        self._width = width
        self._scoring = list(parts)[-1]

    @property
    def scoring(self) -> AlignmentStrategy:
        """The part whose scores count."""
        return self.parts[self._scoring]

    @property
    def training_only(self) -> tuple[str, ...]:
        """Prefixes of this module's state that a checkpoint leaves out."""
        parts = tuple(
            f'parts.{name}.{prefix}'
            for name, part in self.parts.items()
            for prefix in part.training_only
        )
        return parts if self.mining is None else (*parts, 'mining.')

    def bind(self, vision: nn.Module, language: nn.Module) -> None:
        """See `AlignmentStrategy.bind`."""
        for part in self.parts.values():
            part.bind(vision, language)

    def mine(self, names: int, **settings: Any) -> None:
        """Add hard negatives for the scoring part: arguments of `mining.NegativeMining`.

        Called, if at all, when training begins.

        Raises:
            ConfigError: a setting is out of range.
        """
        embed = embedding_width(self.scoring, self._width)
        self.mining = NegativeMining(embed, names, **settings)
        self.mining.to(next(self.parameters()).device)

    # -- scores, see AlignmentStrategy ------------------------------------------------------------

    def embed(
        self, vision: VisionFeatures, language: LanguageFeatures
    ) -> dict[str, torch.Tensor]:
        return self.scoring.embed(vision, language)

    def similarity(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        return self.scoring.similarity(vision, language)

    def vision_language(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        return self.scoring.vision_language(vision, language)

    def score_from_regions(
        self, regions: torch.Tensor, vision: VisionFeatures, language: LanguageFeatures
    ) -> torch.Tensor:
        return self.scoring.score_from_regions(regions, vision, language)

    def sentence_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        return self.scoring.sentence_regions(vision, language)

    def word_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        return self.scoring.word_regions(vision, language)

    def referring(self, language: LanguageFeatures) -> torch.Tensor:
        return self.scoring.referring(language)

    def vision_language_action(self, fused: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """The verifier: (B, D) fused scene and sentence, (B, K, D) candidates → (B, K) cosine."""
        return self.verifier.scores(fused, action)

    # -- losses -----------------------------------------------------------------------------------

    def keys(
        self, images: Mapping[str, torch.Tensor], ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """See `AlignmentStrategy.keys`; those of each part are called `<part>.<key>`."""
        return {
            f'{name}.{key}': value
            for name, part in self.parts.items()
            for key, value in part.keys(images, ids).items()
        }

    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        """The losses of every part, the verifier and the miner, named `<part>_<loss>`."""
        losses, diagnostics, outputs = {}, {}, {}
        for name, part in self.parts.items():
            outputs[name] = part(dataclasses.replace(inputs, keys=_of(name, inputs.keys)))
        outputs['verifier'] = self.verifier(inputs)
        if self.mining is not None:
            embeddings = self.embed(inputs.vision, inputs.language)
            outputs['mining'] = self.mining(embeddings, inputs)
        for name, output in outputs.items():
            losses.update({f'{name}_{key}': value for key, value in output.losses.items()})
            diagnostics.update({f'{name}_{key}': v for key, v in output.diagnostics.items()})
        return AlignmentOutput(losses, diagnostics)

    def after_step(self) -> None:
        """Called after each optimiser step."""
        for part in self.parts.values():
            part.after_step()
        self.verifier.after_step()
        if self.mining is not None:
            self.mining.after_step()


def _of(part: str, keys: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The keys of one part, called as the part itself does."""
    start = f'{part}.'
    return {name[len(start) :]: v for name, v in keys.items() if name.startswith(start)}
