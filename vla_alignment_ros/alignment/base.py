"""The interface every alignment strategy implements: features in, embeddings and losses out.

A strategy is a module that (1) embeds what the towers saw, (2) scores how well words fit a scene
and how well a chunk fits both, and (3) says which losses make those scores true. It never sees
raw data, so every strategy shares towers, data, trainer and evaluation.

Shapes: B batch, N image tokens, L words, D tower width, E embedding width, K candidates.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
from torch import nn

from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures


@dataclass(frozen=True)
class AlignmentInputs:
    """What one training batch gives a strategy."""

    vision: VisionFeatures
    language: LanguageFeatures  # of each row's own sentence
    fused: torch.Tensor  # (B, D) scene read with its own sentence
    fused_swapped: torch.Tensor | None  # (B, D) the same scene read with another row's sentence
    swapped_from: torch.Tensor | None  # (B,) the row that sentence came from
    action: torch.Tensor  # (B, D) encoded ground-truth chunk
    group: torch.Tensor  # (B,) id of the sentence's paraphrase group
    referent: torch.Tensor  # (B,) id of what the sentence names; equal: same thing, any task
    approach: torch.Tensor  # (B,) bool: the arm does not show yet what it was told


@dataclass(frozen=True)
class AlignmentOutput:
    """Named losses (scalars, already weighted) and diagnostics (detached scalars)."""

    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    diagnostics: dict[str, torch.Tensor] = field(default_factory=dict)


class AlignmentStrategy(nn.Module, abc.ABC):
    """Base of all strategies; `width` is D."""

    @abc.abstractmethod
    def region_logits(self, vision: VisionFeatures, words: torch.Tensor) -> torch.Tensor:
        """How much each image token matches each query: (B, N, D) × (B, Q, D) → (B, Q, N)."""

    @abc.abstractmethod
    def vision_language(
        self, vision: VisionFeatures, language: LanguageFeatures
    ) -> torch.Tensor:
        """Row-wise score (B,) of each scene with its sentence; higher fits better."""

    @abc.abstractmethod
    def vision_language_action(self, fused: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """The verifier: (B, D) fused scene and sentence, (B, K, D) candidates → (B, K) cosine."""

    @abc.abstractmethod
    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        """Losses and diagnostics of one batch."""

    def after_step(self) -> None:
        """Called after each optimiser step (clamp scales, move queues or momentum encoders)."""
