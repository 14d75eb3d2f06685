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

from vla_alignment_ros.alignment.registry import make_alignment
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.proprioception import ActionTower, StateTower
from vla_alignment_ros.encoders.vision import CameraTokens, VisionFeatures
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.policy import objective
from vla_alignment_ros.policy.fusion import PointerFusion
from vla_alignment_ros.policy.head import FlowActionHead
from vla_alignment_ros.policy.normalizer import DataStatistics, Normalizer
from vla_alignment_ros.policy.towers import (
    language_tower,
    load_pretrained,
    TowerConfig,
    vision_tower,
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(TowerConfig):
    """Everything that decides the shapes of the weights; stored in the checkpoint."""

    cameras: dict[str, tuple[int, int]]  # name -> (height, width) in pixels
    state_dim: int
    position_index: tuple[int, ...]  # where ee x, y, z lie in the state; empty: no keyframes
    vocabulary_size: int
    projections: dict[str, list[list[float]]] = field(default_factory=dict)  # camera -> (3, 4)
    horizon: int = 8
    decoder_layers: int = 2
    pointers: int = 5
    alignment: str = 'vla+grounded'
    alignment_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    withhold: bool = True  # words that name the thing go to the pointers alone

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
            config = cls(**values)
            config._check()
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ConfigError(f'model config is incomplete or mistyped: {error!r}') from error
        return config

    def _check(self) -> None:
        """That a config from a file can be meant: a number too many builds for ever."""
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f'model.{name} must be {low}…{high}, got {value!r}')
        if not all(0 <= i < self.state_dim for i in self.position_index):
            raise ConfigError(
                f'model.position_index {self.position_index} is outside a state of '
                f'{self.state_dim}'
            )
        if len(self.position_index) not in (0, 3):
            raise ConfigError(f'model.position_index must be three or none: {self.position_index}')
        for camera, matrix in self.projections.items():
            if camera not in self.cameras or [len(row) for row in matrix] != [4, 4, 4]:
                raise ConfigError(f'model.projections.{camera} is no 3×4 matrix of a camera')
        if type(self.withhold) is not bool:
            raise ConfigError(f'model.withhold must be true or false, got {self.withhold!r}')
        _check_counts(self.pretrained, 'model.pretrained')
        _check_counts(self.alignment_settings, 'model.alignment_settings')


# name -> smallest and largest: beyond it a config is a mistake, or meant to do harm
_BOUNDS = {
    'width': (1, 1 << 14), 'heads': (1, 256), 'language_layers': (0, 256),
    'decoder_layers': (0, 256), 'pointers': (2, 256), 'horizon': (1, 1024),
    'state_dim': (1, 4096), 'vocabulary_size': (1, 1 << 22), 'vision_size': (0, 4096),
    'lora_rank': (0, 4096),
}  # fmt: skip
_MOST_PARTS, _MOST = 1 << 10, 1 << 24  # of what is built one by one; of anything else


def _check_counts(data: Any, where: str) -> None:
    """Bounds of every whole number in settings that somebody else defines."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            _check_counts(value, f'{where}.{key}')
    elif isinstance(data, (list, tuple)):
        for value in data:
            _check_counts(value, where)
    elif isinstance(data, int) and not isinstance(data, bool):
        parts = any(word in where for word in ('layer', 'expert', 'slot', 'block'))
        if abs(data) > (_MOST_PARTS if parts else _MOST):
            raise ConfigError(f'{where} is {data}: more than can be meant')


@dataclass(frozen=True)
class Instruction:
    """Sentences as read for two purposes: all words, and what is left for the action head."""

    language: LanguageFeatures
    acting: LanguageFeatures  # what names the thing to act on is withheld

    def rows(self, index: torch.Tensor) -> Instruction:
        """The sentences `index` points at, in its order."""
        return Instruction(self.language.rows(index), self.acting.rows(index))


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
        self.vision = vision_tower(c, c.cameras)
        self.language = language_tower(c, c.vocabulary_size)
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
        self.alignment = make_alignment(c.alignment, c.width, c.alignment_settings)

    def load_pretrained(self) -> None:
        """Copy the weights of pretrained towers in, before training. Raises ConfigError."""
        load_pretrained(self.config, self.vision, self.language)

    def serves_training(self, name: str) -> bool:
        """Whether an entry of the state dict is of no use but to training."""
        return name.startswith(tuple(f'alignment.{p}' for p in self.alignment.training_only))

    # -- reading --------------------------------------------------------------------------------

    def listen(self, ids: torch.Tensor) -> Instruction:
        """Word ids (B, L), 0 where padded → sentences. Costs nothing per image: cache it."""
        language = self.language(ids)
        if not self.config.withhold:
            return Instruction(language, language)
        return Instruction(language, self.language(ids, self.alignment.referring(language)))

    def read(
        self,
        images: dict[str, torch.Tensor],
        state: torch.Tensor,
        instruction: Instruction,
    ) -> Scene:
        """Images name → (B, h, w, 3) uint8; state (B, S) physical; the sentence of each row."""
        vision = self.vision(images)
        physical = state
        state = self.state(self.normalizer.state(physical))
        language, acting = instruction.language, instruction.acting
        fits = self.alignment.sentence_regions(vision, language)
        fused, pointers, attention = self.fusion(vision, acting.pooled, fits)
        keyframe = self.keyframe(fused)  # (B, 3)
        approach = self._approach(keyframe, physical)
        tokens = [
            *map(_coarse, vision.by_camera(vision.tokens), vision.layout),
            acting.tokens,
            pointers,
            torch.stack([state, fused, approach], dim=1),
        ]
        context = torch.cat(tokens, dim=1)  # (B, M, D)
        padding = torch.zeros(context.shape[:2], dtype=torch.bool, device=context.device)
        start = sum(t.shape[1] for t in tokens[: len(vision.layout)])
        padding[:, start : start + acting.mask.shape[1]] = ~acting.mask
        condition = fused + state + approach
        return Scene(
            vision, language, state, fused, keyframe, context, padding, condition, attention, fits
        )

    def _approach(self, keyframe: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The predicted keyframe, and the way to it from where the hand is, as one token."""
        index = self.config.position_index
        if not index:
            return torch.zeros_like(self.approach[2].bias).expand(len(state), -1)
        target = self.normalizer.denormalize_keyframe(keyframe)
        way = (target - state[:, list(index)]) / 0.1  # decimetres: about unit size
        return self.approach(torch.cat([way, keyframe], dim=-1).to(keyframe.dtype))

    def reread(self, scene: Scene, instruction: Instruction) -> torch.Tensor:
        """The same scenes read with other sentences → fused (B, D)."""
        fits = self.alignment.sentence_regions(scene.vision, instruction.language)
        return self.fusion(scene.vision, instruction.acting.pooled, fits)[0]

    # -- training -------------------------------------------------------------------------------

    def forward(
        self,
        batch: Mapping[str, Any],
        weights: Mapping[str, float],
        generator: torch.Generator | None = None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Named, weighted losses and detached diagnostics of one batch.

        batch: images, state (B, S), ids (U, L) of the distinct sentences, sentence (B,) index
        into them, group (B,), referent (B,), task (B,), approach (B,) bool, present (B, B) bool,
        holds (B, K) bool, action (B, H, 7) physical, action_mask (B, H), keyframe (B, 3) m,
        keyframe_gripper (B,) 0…1; where pixels are labelled, labels (camera -> (B, rows,
        columns)), names (K, W) word ids and named (B,). `training.step` does the same in parts
        and with several processes.
        """
        drawn = objective.draw(self, batch, generator)
        rows = objective.read_rows(self, drawn, align=weights['alignment'] > 0)
        return objective.compare(self, rows, objective.facts(self, drawn), weights)

    # -- inference ------------------------------------------------------------------------------

    def candidates(
        self,
        scene: Scene,
        noise: torch.Tensor,
        steps: int,
        plan: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """K chunks for one scene: noise (K, H, 7) → (K, H, 7) in physical units.

        plan: physical actions to go on from and their weight, (H, 7) each.
        """
        if plan is not None:
            plan = (self.normalizer.action(plan[0]).to(scene.context.dtype), plan[1])
        context = (scene.context, scene.padding, scene.condition)
        chunks = self.head.sample(*context, noise, steps, plan)
        return self.normalizer.denormalize_action(chunks.float())

    def verify(
        self, scene: Scene, chunks: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Alignment of K physical chunks (K, H, 7) with one scene and its sentence → (K,).

        mask: (K, H) True where a step counts; all of them by default.
        """
        actions = self.normalizer.action(chunks)
        if mask is None:
            mask = torch.ones(chunks.shape[:2], dtype=torch.bool, device=chunks.device)
        encoded = self.action(actions, mask).unsqueeze(0)  # (1, K, D)
        return self.alignment.vision_language_action(scene.fused, encoded).squeeze(0)


def _coarse(tokens: torch.Tensor, camera: CameraTokens) -> torch.Tensor:
    """One camera's tokens pooled 2×2: the decoder needs gist, the pointers give precision."""
    batch, _, width = tokens.shape
    grid = tokens.transpose(1, 2).reshape(batch, width, camera.rows, camera.columns)
    return F.avg_pool2d(grid, 2, ceil_mode=True).flatten(2).transpose(1, 2)
