"""Action head: context tokens → K candidate chunks, by flow matching that predicts the chunk.

Flow matching (Lipman et al. 2023, arXiv:2210.02747) along the straight path
x_t = (1 − t)·noise + t·chunk. The network predicts the clean chunk x_1 instead of the velocity;
the velocity is (x_1 − x_t)/(1 − t). At t = 0 this is plain regression, so few samples suffice to
learn the mean motion, while different noise still gives different candidates. There x_0 is noise
that was drawn without regard to the chunk, so the best prediction is one and the same for every
noise: it is made once, for the noise's mean, and all K candidates start with it.

Real-time chunking (Black, Galliker, Levine 2025, arXiv:2506.07339) asks for a chunk that goes on
from the plan under way. There the network predicts velocities, so the plan can pull at the
estimate of the clean chunk only by a gradient through the network (pseudo-inverse guidance). Ours
predicts the clean chunk itself, so we inpaint: in each step the prediction is replaced by its
weighted mean with the plan, under the same soft mask. A frozen row (weight 1) thereby travels
exactly on the straight path to its planned value, as in training, and the free rows see it there
through self-attention; the last step makes frozen rows equal the plan. No gradient, no clipping
of guidance weights, and the cost of a decision stays the same.

Shapes: B batch, M context tokens, H horizon, K candidates, D width; A = 7.
"""

from __future__ import annotations

import math

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.heads import precise
from vla_alignment_ros.embodiment import ACTION_DIM
from vla_alignment_ros.policy.decoder import RememberingDecoder


class FlowActionHead(nn.Module):
    """Transformer decoder over H action tokens that cross-attends to the context."""

    def __init__(self, horizon: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.embed = nn.Linear(ACTION_DIM, width)
        self.position = nn.Parameter(torch.randn(horizon, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(16, width), nn.GELU(), nn.Linear(width, width))
        self.decoder = RememberingDecoder(width, heads, layers)
        self.out = nn.Linear(width, ACTION_DIM)
        frequencies = torch.exp(torch.linspace(0, math.log(100.0), 8))
        self.register_buffer('frequencies', frequencies, persistent=False)

    def forward(
        self,
        noisy: torch.Tensor,
        t: torch.Tensor,
        context: torch.Tensor,
        padding: torch.Tensor,
        condition: torch.Tensor,
    ) -> torch.Tensor:
        """Clean chunk predicted from `noisy` (B, H, 7) at time `t` (B,) in 0…1 → (B, H, 7).

        context (B, M, D), padding (B, M) True where a token is to be ignored, condition (B, D).
        """
        hidden = self._asked(noisy, t, condition)
        hidden = self.decoder(hidden, context, memory_key_padding_mask=padding)
        return self.out(hidden)

    def _asked(
        self, noisy: torch.Tensor, t: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """The decoder's input tokens (B, H, D)."""
        angle = t.unsqueeze(1) * self.frequencies  # (B, 8)
        time = self.time(torch.cat([angle.sin(), angle.cos()], dim=1)) + condition  # (B, D)
        return self.embed(noisy) + self.position + time.unsqueeze(1)

    @staticmethod
    def draw(
        actions: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise (B, H, 7) and time (B,) to train on chunks of that shape with.

        A quarter of the rows is drawn at t = 0, where inference starts.
        """
        batch, device = len(actions), actions.device
        noise = torch.randn(actions.shape, generator=generator, device=device)
        t = torch.rand(batch, generator=generator, device=device)
        return noise, t * (torch.rand(batch, generator=generator, device=device) > 0.25)

    def errors(
        self,
        actions: torch.Tensor,
        noise: torch.Tensor,
        t: torch.Tensor,
        context: torch.Tensor,
        padding: torch.Tensor,
        condition: torch.Tensor,
    ) -> torch.Tensor:
        """Mean absolute error (B, H) of each step of the chunk predicted at time t.

        actions (B, H, 7) normalised, noise and t as `draw` gives them.
        """
        blend = t.view(-1, 1, 1)
        noisy = (1 - blend) * noise + blend * actions
        predicted = self(noisy.to(context.dtype), t.to(context.dtype), context, padding, condition)
        return F.l1_loss(precise(predicted), actions, reduction='none').mean(-1)

    @torch.no_grad()
    def sample(
        self,
        context: torch.Tensor,
        padding: torch.Tensor,
        condition: torch.Tensor,
        noise: torch.Tensor,
        steps: int = 4,
        plan: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Integrate `noise` (K, H, 7) for one observation (context (1, M, D)) → (K, H, 7).

        plan: what to go on from, normalised, and its weight 0…1, (H, 7) each; see the module.
        """
        memory = self.decoder.remember(context, padding)
        x = noise.to(context.dtype)
        for step in range(steps):
            t = torch.full((1,), step / steps, dtype=x.dtype, device=x.device)
            seen = x if step else torch.zeros_like(x[:1])  # noise alone says nothing: its mean
            clean = self.out(self.decoder.recall(self._asked(seen, t, condition), memory))
            if plan is not None:
                planned, weight = plan
                clean = clean + weight * (planned - clean)
            # one Euler step of the straight path; the last one lands on the prediction
            x = x + (clean - x) / (steps - step)
        return x
