"""The interface every alignment strategy implements: features in, embeddings and losses out.

A strategy is a module that (1) embeds scenes and sentences, (2) says how well any sentence fits
any scene and which regions each word means, and (3) says which losses make those scores true. It
never sees raw data, so every strategy shares towers, data, trainer and evaluation. How a chunk of
actions fits both is the business of `verifier.ActionVerifier`, which serves every strategy;
`composition.Alignment` puts the parts together.

Shapes: B scenes (batch rows), M sentences, N image tokens (cells of all cameras), L words,
D tower width, E embedding width, K candidates.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from vla_alignment_ros.alignment.heads import soft_maximum
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures


@dataclass(frozen=True)
class Labels:
    """What a recorder noted about the pixels: which named thing each image cell shows."""

    cells: torch.Tensor  # (B, N) int64 into `names`; 0: nothing that has a name, −1: not known
    names: torch.Tensor  # (K, W) int64 word ids of each name, padded with 0; row 0 is empty
    untold: torch.Tensor  # (P, 2) int64 (name, word id): see `labels.untold_contrasts`
    colours: torch.Tensor = field(  # (W,) int64 ids of the words that say a colour
        default_factory=lambda: torch.zeros(0, dtype=torch.int64)
    )


@dataclass(frozen=True)
class AlignmentInputs:
    """What one training batch gives a strategy."""

    vision: VisionFeatures
    language: LanguageFeatures  # of each row's own sentence
    group: torch.Tensor  # (B,) id of the sentence's paraphrase group
    referent: torch.Tensor  # (B,) id of what the sentence names; equal: same thing, any task
    approach: torch.Tensor  # (B,) bool: the arm does not show yet what it was told
    present: torch.Tensor  # (scene, sentence) bool: what the sentence names is known to be there
    task: torch.Tensor  # (B,) int64 kind of task the recorder noted; 0: not known
    named: torch.Tensor  # (B,) int64 id in `Labels.names` of what the sentence names; −1: none
    images: Mapping[str, torch.Tensor] = field(default_factory=dict)  # camera -> (B, h, w, 3)
    keys: Mapping[str, torch.Tensor] = field(default_factory=dict)  # of `AlignmentStrategy.keys`
    labels: Labels | None = None
    recoloured: VisionFeatures | None = None  # (R, …) scenes again, in other colours
    recoloured_cells: torch.Tensor | None = None  # (R, N) what they show, as `Labels.cells`
    holds: torch.Tensor | None = None  # (scene, name) bool: known to be there; None: nothing is
    # for the verifier
    fused: torch.Tensor | None = None  # (B, D) scene read with its own sentence
    fused_swapped: torch.Tensor | None = None  # (B, D) the scene read with another row's sentence
    swapped_from: torch.Tensor | None = None  # (B,) the row that sentence came from
    action: torch.Tensor | None = None  # (B, D) encoded ground-truth chunk


@dataclass(frozen=True)
class AlignmentOutput:
    """Named losses (scalars, already weighted) and diagnostics (detached scalars)."""

    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    diagnostics: dict[str, torch.Tensor] = field(default_factory=dict)


class AlignmentStrategy(nn.Module, abc.ABC):
    """Base of all strategies; the first argument of every constructor is D.

    `training_only` names the prefixes of state that serves training alone (queues, momentum
    copies): it is in the training state and not in a checkpoint. `reads_pixel_labels` says that
    its regions are taught by labels of pixels where there are any; regions of all others are
    taught by the demonstration (`policy.hindsight`) whether pixels are labelled or not.
    """

    training_only: tuple[str, ...] = ()
    reads_pixel_labels: bool = False

    def bind(self, vision: nn.Module, language: nn.Module) -> None:
        """Called once with the towers when training begins, for strategies that copy them."""

    def keys(
        self, images: Mapping[str, torch.Tensor], ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What the strategy reads itself from images and word ids (B, L), row by row: (B, …) each.

        Without gradient. Where rows were put together from several parts or processes, the
        images of all are nowhere together, so `AlignmentInputs.keys` brings these instead.
        """
        return {}

    @abc.abstractmethod
    def embed(
        self, vision: VisionFeatures, language: LanguageFeatures
    ) -> dict[str, torch.Tensor]:
        """Named embeddings with rows of length 1: at least 'vision' (B, E), 'language' (M, E)."""

    @abc.abstractmethod
    def similarity(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        """How well every sentence fits every scene: (B, M); higher fits better."""

    def vision_language(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        """Score (B,) of each scene with the sentence of the same row: what the gate looks at."""
        return self.similarity(vision, language).diagonal()

    def score_from_regions(
        self, regions: torch.Tensor, vision: VisionFeatures, language: LanguageFeatures
    ) -> torch.Tensor:
        """`vision_language` (B,) where `sentence_regions` (B, N) of the same rows is known."""
        return self.vision_language(vision, language)

    @abc.abstractmethod
    def sentence_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        """Logits (B, N) of each image token being what the row's sentence is about."""

    @abc.abstractmethod
    def word_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        """Logits (B, L, N) of each image token being what a word means; pads are arbitrary."""

    def referring(self, language: LanguageFeatures) -> torch.Tensor:
        """How much each word helps to name what is to be acted on: (M, L) in 0…1.

        Such words go to the pointers alone and not to the action head, which so cannot learn by
        heart what to do with a thing. Zero, the default, keeps every word for both.
        """
        return torch.zeros_like(language.mask, dtype=language.tokens.dtype)

    @abc.abstractmethod
    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        """Losses and diagnostics of one batch."""

    def after_step(self) -> None:
        """Called after each optimiser step (clamp scales, move queues or momentum encoders)."""


class BestRegionStrategy(AlignmentStrategy):
    """A sentence fits a scene as well as its best region does: a soft maximum over regions.

    `sharpness` is that of the logits of `sentence_regions`, and scales their maximum back.
    """

    sharpness: float

    def vision_language(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        regions = self.sentence_regions(vision, language)
        return self.score_from_regions(regions, vision, language)

    def score_from_regions(
        self, regions: torch.Tensor, vision: VisionFeatures, language: LanguageFeatures
    ) -> torch.Tensor:
        return soft_maximum(regions) / self.sharpness
