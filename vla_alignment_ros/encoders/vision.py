"""Vision tower: images of every camera → tokens with known image coordinates, and a pooled vector.

Shapes: B batch, N image tokens (over all cameras), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import ResNetConfig, ResNetModel

from vla_alignment_ros.errors import ConfigError

# A from-scratch tower is a line here: name -> ResNetConfig of the transformers library.
# Group of strides: stem 4, then 2 per further stage. Sized for 64–128 px cameras on a CPU core.
RESNET_PRESETS: dict[str, dict] = {
    'resnet_micro': {'embedding_size': 16, 'hidden_sizes': [32, 64], 'depths': [1, 2]},
    'resnet_tiny': {'embedding_size': 32, 'hidden_sizes': [64, 128], 'depths': [2, 2]},
}
_CHANNEL_MEAN, _CHANNEL_STD = 0.45, 0.25  # of 0…1 pixels; one value: colours keep their ratios


@dataclass(frozen=True)
class CameraTokens:
    """Where one camera's tokens lie in the token axis, and its grid."""

    name: str
    start: int
    rows: int
    columns: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.rows * self.columns)


@dataclass(frozen=True)
class VisionFeatures:
    """Tokens (B, N, D), pooled (B, D), coordinates (N, 2) as x, y in −1…1, per-camera layout."""

    tokens: torch.Tensor
    pooled: torch.Tensor
    coordinates: torch.Tensor
    layout: tuple[CameraTokens, ...]
    _derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, reader: Hashable, make: Callable[[VisionFeatures], Any]) -> Any:
        """What `reader` makes of these features, computed the first time it is asked for.

        A scene is read with several sentences, and projecting every token costs more than all
        that is done with a sentence.
        """
        if reader not in self._derived:
            self._derived[reader] = make(self)
        return self._derived[reader]

    def by_camera(self, per_token: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cut (B, N, …) into the cameras' parts (B, n, …), in the order of the layout."""
        return per_token.split([c.rows * c.columns for c in self.layout], dim=1)


@contextmanager
def running_norms(tower: nn.Module) -> Iterator[None]:
    """Let batch norms use their running statistics, and not add to them.

    For pictures that are not like those the tower will see: they go through the function that it
    will be, and do not change it by their brightness.
    """
    norms = [m for m in tower.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    was = [norm.training for norm in norms]
    try:
        for norm in norms:
            norm.training = False
        yield
    finally:
        for norm, training in zip(norms, was):
            norm.training = training


class CameraTower(nn.Module):
    """Base of the vision towers: gives tokens their camera and their place in its image."""

    layout: tuple[CameraTokens, ...]
    coordinates: torch.Tensor  # (N, 2)

    def _arrange(self, grids: dict[str, tuple[int, int]], width: int) -> None:
        """Lay out the cameras' grids (name -> rows, columns) one after another."""
        self.position = nn.Linear(2, width)
        self.camera = nn.Parameter(torch.randn(len(grids), width) * 0.02)
        self.norm = nn.LayerNorm(width)
        layout, start = [], 0
        for name, (rows, columns) in grids.items():
            layout.append(CameraTokens(name, start, rows, columns))
            start += rows * columns
        self.layout = tuple(layout)
        places = torch.cat([_grid(rows, columns) for rows, columns in grids.values()])
        self.register_buffer('coordinates', places, persistent=False)

    def _features(self, parts: list[torch.Tensor]) -> VisionFeatures:
        """From the projected tokens of each camera, (B, n, D) each."""
        named = [tokens + self.camera[index] for index, tokens in enumerate(parts)]
        tokens = self.norm(torch.cat(named, dim=1) + self.position(self.coordinates))
        return VisionFeatures(tokens, tokens.mean(dim=1), self.coordinates, self.layout)


class VisionTower(CameraTower):
    """One convolutional backbone shared by all cameras, with a learned embedding per camera.

    Args:
        preset: a name of `RESNET_PRESETS`.
        cameras: camera name -> (height, width) in pixels.
        width: D.

    Raises:
        ConfigError: unknown preset; the known ones are listed.
    """

    def __init__(self, preset: str, cameras: dict[str, tuple[int, int]], width: int) -> None:
        super().__init__()
        if preset not in RESNET_PRESETS:
            raise ConfigError(
                f'unknown vision preset {preset!r}; known: {", ".join(RESNET_PRESETS)}, or '
                f'hf:NAME for a pretrained model'
            )
        config = ResNetConfig(
            layer_type='basic', downsample_in_first_stage=False, **RESNET_PRESETS[preset]
        )
        self.backbone = ResNetModel(config)
        self.backbone.pooler = nn.Identity()  # we pool tokens ourselves
        self.project = nn.Linear(config.hidden_sizes[-1], width)
        stride = 4 * 2 ** (len(config.hidden_sizes) - 1)
        grids = {name: (-(-h // stride), -(-w // stride)) for name, (h, w) in cameras.items()}
        self._arrange(grids, width)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: dict[str, torch.Tensor]) -> VisionFeatures:
        """images: camera name -> (B, height, width, 3) uint8 RGB."""
        parts = []
        for camera in self.layout:
            pixels = images[camera.name].permute(0, 3, 1, 2)  # (B, 3, h, w), channels last
            pixels = (pixels.to(self.project.weight.dtype) / 255 - _CHANNEL_MEAN) / _CHANNEL_STD
            maps = self.backbone(pixels).last_hidden_state  # (B, C, rows, columns)
            parts.append(self.project(maps.flatten(2).transpose(1, 2)))  # (B, n, D)
        return self._features(parts)


def _grid(rows: int, columns: int) -> torch.Tensor:
    """Centres of the cells of a grid as (rows·columns, 2) x, y in −1…1."""
    y = (torch.arange(rows) + 0.5) / rows * 2 - 1
    x = (torch.arange(columns) + 0.5) / columns * 2 - 1
    return torch.stack(torch.meshgrid(y, x, indexing='ij')[::-1], dim=-1).reshape(-1, 2)
