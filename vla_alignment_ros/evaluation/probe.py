"""Asks a policy's alignment what the evaluation wants to know, in batches, through one interface.

Nothing here knows which strategy answers: all go through `alignment.base.AlignmentStrategy`.

Shapes: B scenes, M sentences, N image tokens, L words, C classes, P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vla_alignment_ros.encoders.language import LanguageFeatures, tokenize
from vla_alignment_ros.encoders.vision import VisionFeatures
from vla_alignment_ros.observation import Observation
from vla_alignment_ros.policy.policy import Policy

BATCH = 64  # scenes, or pairs of a scene and a sentence, that are worked on at a time


class AlignmentProbe:
    """The alignment of one policy. Maps come as (rows, columns) per camera, summing to 1."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._model = policy.checkpoint.model
        self._alignment = self._model.alignment
        self._device = policy.device

    @torch.inference_mode()
    def look(self, images: Sequence[dict[str, np.ndarray]]) -> VisionFeatures:
        """Pictures (camera → (H, W, 3) uint8) of B moments → their features."""
        parts = []
        for start in range(0, len(images), BATCH):
            some = images[start : start + BATCH]
            stacked = {
                name: torch.from_numpy(np.stack([one[name] for one in some])).to(self._device)
                for name in some[0]
            }
            parts.append(self._model.vision(stacked))
        first = parts[0]
        return VisionFeatures(
            torch.cat([p.tokens for p in parts]),
            torch.cat([p.pooled for p in parts]),
            first.coordinates,
            first.layout,
        )

    @torch.inference_mode()
    def hear(self, sentences: Sequence[str]) -> LanguageFeatures:
        """Features of M sentences."""
        ids = tokenize(self.policy.checkpoint.tokenizer, sentences).to(self._device)
        return self._model.listen(ids).language

    @torch.inference_mode()
    def embed(
        self, vision: VisionFeatures, language: LanguageFeatures
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pooled embeddings of scenes (B, E) and sentences (M, E)."""
        scenes, count = [], len(vision.tokens)
        for start in range(0, count, BATCH):
            part = self._alignment.embed(_rows(vision, slice(start, start + BATCH)), language)
            scenes.append(part['vision'].float())
        return torch.cat(scenes), part['language'].float()

    @torch.inference_mode()
    def similarity(
        self,
        vision: VisionFeatures,
        language: LanguageFeatures,
        scenes: torch.Tensor | None = None,
        sentences: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """How well sentences fit scenes (B, M); of those that the indices name, if given."""
        count = len(vision.tokens)
        rows = torch.arange(count, device=self._device) if scenes is None else scenes
        some = language if sentences is None else language.rows(sentences)
        parts = [
            self._alignment.similarity(_rows(vision, part), some) for part in rows.split(BATCH)
        ]
        return torch.cat(parts).float()

    @torch.inference_mode()
    def probability(self, vision: VisionFeatures, language: LanguageFeatures) -> np.ndarray:
        """Calibrated score (B,) of each scene with the sentence of the same row."""
        c = self.policy.calibration
        raw = []
        for rows in torch.arange(len(vision.tokens), device=self._device).split(BATCH):
            score = self._alignment.vision_language(_rows(vision, rows), language.rows(rows))
            raw.append(score.float())
        return torch.sigmoid(c.slope * torch.cat(raw) + c.offset).double().cpu().numpy()

    @torch.inference_mode()
    def maps(
        self, vision: VisionFeatures, language: LanguageFeatures, row: int, camera: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """One camera's maps of scene and sentence number `row`.

        Of the sentence (rows, columns) and of each word (L, rows, columns); the weights of a map
        sum to 1.
        """
        index = torch.tensor([row], device=self._device)
        scene, said = _rows(vision, index), language.rows(index)
        layout = next(c for c in vision.layout if c.name == camera)
        logits = torch.cat(
            [
                self._alignment.sentence_regions(scene, said).unsqueeze(1),
                self._alignment.word_regions(scene, said),
            ],
            dim=1,
        )[0, :, layout.slice]  # (1 + L, n)
        heat = logits.float().softmax(-1).cpu().numpy()
        heat = heat.reshape(-1, layout.rows, layout.columns)
        return heat[0], heat[1:]

    @torch.inference_mode()
    def region_scores(
        self,
        vision: VisionFeatures,
        row: int,
        camera: str,
        cover: np.ndarray,
        language: LanguageFeatures,
    ) -> np.ndarray:
        """How well sentences fit parts of scene number `row`: (objects, M).

        cover: (objects, rows, columns) share of each cell that belongs to each part; the score
        is the mean of the cells' logits with these weights.
        """
        layout = next(c for c in vision.layout if c.name == camera)
        weight = torch.from_numpy(cover.reshape(len(cover), -1)).to(self._device)
        weight = weight / weight.sum(1, keepdim=True)
        scores = []
        for part in torch.arange(len(language.ids), device=self._device).split(BATCH):
            scene = _rows(vision, torch.full_like(part, row))
            logits = self._alignment.sentence_regions(scene, language.rows(part))
            scores.append(weight @ logits[:, layout.slice].float().T)
        return torch.cat(scores, dim=1).double().cpu().numpy()

    def action(self, observation: Observation) -> np.ndarray:
        """First action (7,) of the deterministic chunk, in units of the action's range."""
        chunk = self.policy.step(observation, candidates=1).chunk
        spec = self.policy.embodiment.action
        scale = np.maximum(np.abs(spec.low), np.abs(spec.high))
        return chunk.actions[0] / scale


def _rows(vision: VisionFeatures, index: torch.Tensor | slice) -> VisionFeatures:
    # made anew, not replaced: what was derived from all rows does not hold for some
    return VisionFeatures(
        vision.tokens[index], vision.pooled[index], vision.coordinates, vision.layout
    )
