"""Vision tower: images of every camera → tokens with known image coordinates, and a pooled vector.

Shapes: B batch, N image tokens (over all cameras), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

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


class VisionTower(nn.Module):
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
                f'unknown vision preset {preset!r}; known: {", ".join(RESNET_PRESETS)}'
            )
        config = ResNetConfig(
            layer_type='basic', downsample_in_first_stage=False, **RESNET_PRESETS[preset]
        )
        self.backbone = ResNetModel(config)
        self.backbone.pooler = nn.Identity()  # we pool tokens ourselves
        self.project = nn.Linear(config.hidden_sizes[-1], width)
        self.position = nn.Linear(2, width)
        self.camera = nn.Parameter(torch.randn(len(cameras), width) * 0.02)
        self.norm = nn.LayerNorm(width)
        stride = 4 * 2 ** (len(config.hidden_sizes) - 1)
        layout, start = [], 0
        for name, (height, wide) in cameras.items():
            rows, columns = -(-height // stride), -(-wide // stride)
            layout.append(CameraTokens(name, start, rows, columns))
            start += rows * columns
        self.layout = tuple(layout)
        grids = [_grid(c.rows, c.columns) for c in layout]
        self.register_buffer('coordinates', torch.cat(grids), persistent=False)  # (N, 2)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: dict[str, torch.Tensor]) -> VisionFeatures:
        """images: camera name -> (B, height, width, 3) uint8 RGB."""
        parts = []
        for index, camera in enumerate(self.layout):
            pixels = images[camera.name].permute(0, 3, 1, 2)  # (B, 3, h, w), channels last
            pixels = (pixels.to(self.project.weight.dtype) / 255 - _CHANNEL_MEAN) / _CHANNEL_STD
            maps = self.backbone(pixels).last_hidden_state  # (B, C, rows, columns)
            tokens = self.project(maps.flatten(2).transpose(1, 2))  # (B, n, D)
            parts.append(tokens + self.camera[index])
        tokens = self.norm(torch.cat(parts, dim=1) + self.position(self.coordinates))
        return VisionFeatures(tokens, tokens.mean(dim=1), self.coordinates, self.layout)


def _grid(rows: int, columns: int) -> torch.Tensor:
    """Centres of the cells of a grid as (rows·columns, 2) x, y in −1…1."""
    y = (torch.arange(rows) + 0.5) / rows * 2 - 1
    x = (torch.arange(columns) + 0.5) / columns * 2 - 1
    return torch.stack(torch.meshgrid(y, x, indexing='ij')[::-1], dim=-1).reshape(-1, 2)
