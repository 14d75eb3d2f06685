"""The network: towers → alignment → fusion → keyframe → action head.

Shapes: B batch, C cameras, N image tokens, L words, H horizon, K candidates, D width, S state.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.base import AlignmentInputs
from vla_alignment_ros.alignment.registry import make_strategy
from vla_alignment_ros.encoders.language import LanguageFeatures, LanguageTower
from vla_alignment_ros.encoders.proprioception import ActionTower, StateTower
from vla_alignment_ros.encoders.vision import CameraTokens, VisionFeatures, VisionTower
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.policy.fusion import PointerFusion
from vla_alignment_ros.policy.head import FlowActionHead
from vla_alignment_ros.policy.normalizer import DataStatistics, Normalizer

POINTING_WEIGHT = 0.3
FAR_M = 0.1  # a hand farther than this from its keyframe cannot show yet where it is going


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the shapes of the weights; stored in the checkpoint."""

    cameras: dict[str, tuple[int, int]]  # name -> (height, width) in pixels
    state_dim: int
    position_index: tuple[int, ...]  # where ee x, y, z lie in the state; empty: no keyframes
    vocabulary_size: int
    projections: dict[str, list[list[float]]] = field(default_factory=dict)  # camera -> (3, 4)
    horizon: int = 8
    width: int = 128
    heads: int = 4
    vision: str = 'resnet_micro'
    language_layers: int = 2
    decoder_layers: int = 2
    pointers: int = 5
    strategy: str = 'vla'
    strategy_settings: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """From JSON; unknown or missing keys are a `ConfigError`."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(f'model config has unknown keys {", ".join(unknown)}')
        values = dict(data)
        try:
            cameras = {str(k): (int(v[0]), int(v[1])) for k, v in values['cameras'].items()}
            values['cameras'] = cameras
            values['position_index'] = tuple(int(i) for i in values['position_index'])
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ConfigError(f'model config is incomplete or mistyped: {error!r}') from error


@dataclass(frozen=True)
class Scene:
    """One batch of observations read with their sentences: all that the heads need."""

    vision: VisionFeatures
    language: LanguageFeatures
    state: torch.Tensor  # (B, D)
    fused: torch.Tensor  # (B, D)
    keyframe: torch.Tensor  # (B, 3) normalised prediction of the next keyframe position
    context: torch.Tensor  # (B, M, D)
    padding: torch.Tensor  # (B, M) True where a token is to be ignored
    condition: torch.Tensor  # (B, D)
    attention: torch.Tensor  # (B, N) logits of the pointer that looks for the keyframe
    fits: torch.Tensor  # (B, N) logits of the alignment: which regions fit the sentence


class VlaModel(nn.Module):
    """See the module's docstring. `losses` trains it, `read` + `candidates` run it."""

    def __init__(self, config: ModelConfig, statistics: DataStatistics) -> None:
        super().__init__()
        c = config
        self.config = config
        self.normalizer = Normalizer(statistics)
        self.vision = VisionTower(c.vision, c.cameras, c.width)
        self.language = LanguageTower(c.vocabulary_size, c.width, c.language_layers, c.heads)
        self.state = StateTower(c.state_dim, c.width)
        self.action = ActionTower(c.horizon, c.width, c.heads)
        self.fusion = PointerFusion(c.width, len(c.cameras), c.pointers)
        self.keyframe = nn.Sequential(
            nn.Linear(c.width, c.width), nn.GELU(), nn.Linear(c.width, 3)
        )
        self.approach = nn.Sequential(
            nn.Linear(6, c.width), nn.GELU(), nn.Linear(c.width, c.width)
        )
        self.head = FlowActionHead(c.horizon, c.width, c.decoder_layers, c.heads)
        self.alignment = make_strategy(c.strategy, c.width, **c.strategy_settings)

    # -- reading --------------------------------------------------------------------------------

    def read(
        self,
        images: dict[str, torch.Tensor],
        state: torch.Tensor,
        language: LanguageFeatures,
    ) -> Scene:
        """Images name → (B, h, w, 3) uint8; state (B, S) physical; language of each row."""
        vision = self.vision(images)
        physical = state
        state = self.state(self.normalizer.state(physical))
        fits = self._fits(vision, language.pooled)
        fused, pointers, attention = self.fusion(vision, language.pooled, fits)
        keyframe = self.keyframe(fused)  # (B, 3)
        approach = self._approach(keyframe, physical)
        tokens = [
            *(self._coarse(vision, camera) for camera in vision.layout),
            language.tokens,
            pointers,
            torch.stack([state, fused, approach], dim=1),
        ]
        context = torch.cat(tokens, dim=1)  # (B, M, D)
        padding = torch.zeros(context.shape[:2], dtype=torch.bool, device=context.device)
        start = sum(t.shape[1] for t in tokens[: len(vision.layout)])
        padding[:, start : start + language.mask.shape[1]] = ~language.mask
        condition = fused + state + approach
        return Scene(
            vision, language, state, fused, keyframe, context, padding, condition, attention, fits
        )

    def _coarse(self, vision: VisionFeatures, camera: CameraTokens) -> torch.Tensor:
        """One camera's tokens pooled 2×2: the decoder needs gist, the pointers give precision."""
        tokens = vision.tokens[:, camera.slice]
        batch, _, width = tokens.shape
        grid = tokens.transpose(1, 2).reshape(batch, width, camera.rows, camera.columns)
        return F.avg_pool2d(grid, 2, ceil_mode=True).flatten(2).transpose(1, 2)

    def _approach(self, keyframe: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The predicted keyframe, and the way to it from where the hand is, as one token."""
        index = self.config.position_index
        if not index:
            return torch.zeros_like(self.approach[2].bias).expand(len(state), -1)
        target = self.normalizer.denormalize_keyframe(keyframe)
        way = (target - state[:, list(index)]) / 0.1  # decimetres: about unit size
        return self.approach(torch.cat([way, keyframe], dim=-1).to(keyframe.dtype))

    def reread(self, scene: Scene, sentence: torch.Tensor) -> torch.Tensor:
        """The same scenes read with other sentences (B, D pooled) → fused (B, D)."""
        fits = self._fits(scene.vision, sentence)
        return self.fusion(scene.vision, sentence, fits)[0]

    def _fits(self, vision: VisionFeatures, sentence: torch.Tensor) -> torch.Tensor:
        return self.alignment.region_logits(vision, sentence.unsqueeze(1)).squeeze(1)  # (B, N)

    # -- training -------------------------------------------------------------------------------

    def forward(
        self,
        batch: Mapping[str, Any],
        weights: Mapping[str, float],
        generator: torch.Generator | None = None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Named, weighted losses and detached diagnostics of one batch.

        batch: images, state (B, S), ids (U, L) of the distinct sentences, sentence (B,) index
        into them, group (B,), referent (B,), approach (B,) bool, action (B, H, 7) physical,
        action_mask (B, H), keyframe (B, 3) m, keyframe_gripper (B,) 0…1.
        """
        distinct = self.language(batch['ids'])
        row = batch['sentence']
        language = LanguageFeatures(
            distinct.tokens[row], distinct.mask[row], distinct.pooled[row]
        )
        scene = self.read(batch['images'], batch['state'], language)
        actions = self.normalizer.action(batch['action'])
        mask = batch['action_mask']
        context = (scene.context, scene.padding, scene.condition)
        losses = {'action': self.head.loss(actions, mask, *context, generator=generator)}
        diagnostics: dict[str, torch.Tensor] = {}
        if self.config.position_index:
            losses['keyframe'], diagnostics = self._keyframe_loss(scene, batch)
            losses['keyframe'] = weights['keyframe'] * losses['keyframe']
        if weights['alignment'] > 0:
            order = torch.randperm(len(row), generator=generator, device=row.device)
            encoded = self.action(actions.to(scene.fused.dtype), mask)
            inputs = AlignmentInputs(
                vision=scene.vision,
                language=language,
                fused=scene.fused,
                fused_swapped=self.reread(scene, language.pooled[order]),
                swapped_from=order,
                action=encoded,
                group=batch['group'],
                referent=batch['referent'],
                approach=batch['approach'],
            )
            output = self.alignment(inputs)
            for name, value in output.losses.items():
                losses[name] = weights['alignment'] * value
            diagnostics.update(output.diagnostics)
            if self.config.position_index and self.config.projections:
                losses['align_grounding'], found = self._grounding_loss(scene, batch)
                diagnostics.update(found)
        return losses, diagnostics

    def _keyframe_loss(
        self, scene: Scene, batch: Mapping[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Error of the predicted keyframe; the farther the hand still is, the more it counts.

        Near its goal the arm itself shows where it is going; only from afar do the words tell.
        """
        hand = batch['state'][:, list(self.config.position_index)]
        way = (batch['keyframe'] - hand).norm(dim=-1)  # (B,) m
        weight = (way / FAR_M).clamp(0.1, 1.5)
        target = self.normalizer.keyframe(batch['keyframe'])
        error = F.smooth_l1_loss(scene.keyframe.float(), target, beta=0.1, reduction='none')
        loss = (error.mean(-1) * weight).sum() / weight.sum()
        found = self.normalizer.denormalize_keyframe(scene.keyframe.detach().float())
        miss = 1000 * (found - batch['keyframe'])[:, :2].norm(dim=-1)  # (B,) mm
        far = way > FAR_M
        diagnostics = {'keyframe_mm': miss[far].median() if far.any() else miss.median()}
        for camera in scene.vision.layout:
            if camera.name in self.config.projections:
                target, seen = self._seen_at(camera, batch['keyframe'])
                rows = weight * seen
                aim, hit = _pointing(scene.attention[:, camera.slice], target, rows)
                loss = loss + POINTING_WEIGHT * aim
                diagnostics[f'pointing_{camera.name}'] = hit
        return loss, diagnostics

    def _grounding_loss(
        self, scene: Scene, batch: Mapping[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The alignment's attention, taught by hindsight: no label but the demonstration itself.

        Where an open hand is going to close is the thing that was named.
        """
        closes = batch['approach'] & (batch['keyframe_gripper'] < 0.5)
        closes = closes & (batch['action'][:, 0, -1] > 0.5)
        loss, diagnostics = scene.fused.new_zeros((), dtype=torch.float32), {}
        for camera in scene.vision.layout:
            if camera.name in self.config.projections:
                target, seen = self._seen_at(camera, batch['keyframe'])
                aim, hit = _pointing(scene.fits[:, camera.slice], target, seen * closes)
                loss = loss + POINTING_WEIGHT * aim
                diagnostics[f'named_{camera.name}'] = hit
        return loss, diagnostics

    def _seen_at(
        self, camera: CameraTokens, point: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where a calibrated camera sees points (B, 3) m in base_link.

        Returns a distribution over its cells (B, n), a Gaussian of one cell around the point, and
        (B,) 1 where the point is inside the image, else 0.
        """
        matrix = torch.tensor(self.config.projections[camera.name], device=point.device)
        homogeneous = F.pad(point.float(), (0, 1), value=1.0) @ matrix.T  # (B, 3)
        depth = homogeneous[:, 2:]
        where = homogeneous[:, :2] / depth.clamp_min(1e-3)  # (B, 2) in −1…1
        inside = (depth[:, 0] > 0) & (where.abs() < 1).all(dim=1)
        cells = self.vision.coordinates[camera.slice].float()  # (n, 2)
        size = torch.tensor([2 / camera.columns, 2 / camera.rows], device=cells.device)
        distance = ((cells.unsqueeze(0) - where.unsqueeze(1)) / size).square().sum(-1)  # (B, n)
        return (-0.5 * distance).softmax(dim=-1), inside.float()

    # -- inference ------------------------------------------------------------------------------

    def candidates(self, scene: Scene, noise: torch.Tensor, steps: int) -> torch.Tensor:
        """K chunks for one scene: noise (K, H, 7) → (K, H, 7) in physical units."""
        chunks = self.head.sample(scene.context, scene.padding, scene.condition, noise, steps)
        return self.normalizer.denormalize_action(chunks.float())

    def verify(self, scene: Scene, chunks: torch.Tensor) -> torch.Tensor:
        """Alignment of K physical chunks (K, H, 7) with one scene and its sentence → (K,)."""
        actions = self.normalizer.action(chunks)
        mask = torch.ones(chunks.shape[:2], dtype=torch.bool, device=chunks.device)
        encoded = self.action(actions, mask).unsqueeze(0)  # (1, K, D)
        return self.alignment.vision_language_action(scene.fused, encoded).squeeze(0)


def _pointing(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted cross-entropy of an attention to a target over cells, and how often it hits.

    logits, target (B, n); weight (B,). A hit is a peak on a cell next to the target's.
    """
    total = weight.sum().clamp_min(1e-6)
    entropy = -(target * logits.float().log_softmax(dim=-1)).sum(-1)  # (B,)
    # a cell beside the peak of a Gaussian of one cell has at least exp(−1) of it
    on_peak = target.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1)
    hit = (on_peak > 0.3 * target.amax(dim=1)).float()
    return (entropy * weight).sum() / total, (hit * weight).sum() / total
