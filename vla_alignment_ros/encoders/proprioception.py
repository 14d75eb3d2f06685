"""State and action towers: numbers → vectors of width D."""

from __future__ import annotations

import torch
from torch import nn

from vla_alignment_ros.embodiment import ACTION_DIM


class StateTower(nn.Module):
    """Normalised proprioception (B, S) → (B, D)."""

    def __init__(self, state_dim: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(state_dim, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width)
        )

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.net(state)


class ActionTower(nn.Module):
    """A normalised action chunk (B, H, 7) with its validity mask (B, H) → (B, D).

    Each step is embedded with its time index, mixed by one transformer layer and mean-pooled
    over the valid steps, so that padding after an episode's end cannot speak.
    """

    def __init__(self, horizon: int, width: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(ACTION_DIM, width)
        self.time = nn.Parameter(torch.randn(horizon, width) * 0.02)
        self.mix = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, actions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.mix(self.embed(actions) + self.time, src_key_padding_mask=~mask)
        weight = mask.unsqueeze(-1).to(hidden.dtype)  # (B, H, 1)
        return self.norm((hidden * weight).sum(1) / weight.sum(1).clamp_min(1))
