"""Physical units ↔ the numbers a network likes, by the statistics of the training episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vla_alignment_ros.errors import ConfigError


@dataclass(frozen=True)
class DataStatistics:
    """What the normaliser needs; lists so that it goes into JSON as it is.

    `action_low`/`action_high` are the 1 % and 99 % quantiles of each action dimension;
    `passthrough` names the dimensions left untouched (the gripper).
    """

    state_mean: Sequence[float]
    state_std: Sequence[float]
    action_low: Sequence[float]
    action_high: Sequence[float]
    passthrough: Sequence[bool]
    keyframe_mean: Sequence[float] = (0.0, 0.0, 0.0)
    keyframe_std: Sequence[float] = (1.0, 1.0, 1.0)


class Normalizer(nn.Module):
    """Buffers, so that statistics travel inside the weights and move with the device."""

    def __init__(self, statistics: DataStatistics) -> None:
        super().__init__()
        s = statistics
        low, high = torch.tensor(s.action_low), torch.tensor(s.action_high)
        keep = torch.tensor(list(s.passthrough))
        if not (len(low) == len(high) == len(keep)) or len(s.state_mean) != len(s.state_std):
            raise ConfigError('data statistics have lengths that do not agree')
        # a dimension that never moved has no span: leave its scale at one unit
        span = (high - low).clamp_min(0)
        scale = torch.where(keep | (span < 1e-6), torch.ones_like(span), span / 2)
        centre = torch.where(keep, torch.zeros_like(span), (high + low) / 2)
        self.register_buffer('action_scale', scale.float())
        self.register_buffer('action_centre', centre.float())
        self.register_buffer('state_mean', torch.tensor(s.state_mean).float())
        self.register_buffer('state_std', torch.tensor(s.state_std).float().clamp_min(1e-3))
        self.register_buffer('keyframe_mean', torch.tensor(s.keyframe_mean).float())
        self.register_buffer('keyframe_std', torch.tensor(s.keyframe_std).float().clamp_min(1e-3))

    def state(self, state: torch.Tensor) -> torch.Tensor:
        """(B, S) physical → about zero mean and unit spread, kept within ±5."""
        return ((state - self.state_mean) / self.state_std).clamp(-5, 5)

    def action(self, action: torch.Tensor) -> torch.Tensor:
        """(…, 7) physical → about −1…1 (gripper untouched)."""
        return (action - self.action_centre) / self.action_scale

    def denormalize_action(self, action: torch.Tensor) -> torch.Tensor:
        """Inverse of `action`."""
        return action * self.action_scale + self.action_centre

    def keyframe(self, position: torch.Tensor) -> torch.Tensor:
        """(B, 3) metres → about zero mean and unit spread."""
        return (position - self.keyframe_mean) / self.keyframe_std

    def denormalize_keyframe(self, position: torch.Tensor) -> torch.Tensor:
        """Inverse of `keyframe`."""
        return position * self.keyframe_std + self.keyframe_mean
