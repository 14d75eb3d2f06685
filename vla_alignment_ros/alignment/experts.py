"""A mixture of projections: a few linear experts and the router that weighs them for each row.

Routing is the top-k softmax with gates renormalised over the chosen experts (GShard, Lepikhin et
al. 2021, arXiv:2006.16668), in fp32; the balance loss X · Σ f · P keeps all X experts in use
(Switch Transformer, Fedus et al. 2022, arXiv:2101.03961).

Shapes: R rows (scenes or sentences), C what the router reads, D what is projected, E the result.
"""

from __future__ import annotations

import math

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.heads import precise


class Routing:
    """How rows are shared out: probabilities and gates (R, X), gates 0 for unchosen experts."""

    def __init__(self, probabilities: torch.Tensor, top_k: int) -> None:
        best, chosen = probabilities.topk(top_k, dim=-1)  # (R, k)
        self.probabilities = probabilities
        self.gates = torch.zeros_like(probabilities).scatter(
            -1, chosen, best / best.sum(-1, keepdim=True)
        )

    @property
    def use(self) -> torch.Tensor:
        """f: share (X,) of the choices that fell on each expert."""
        chosen = (self.gates.detach() > 0).to(self.gates.dtype)
        return chosen.sum(0) / chosen.sum().clamp_min(1)

    def balance(self) -> torch.Tensor:
        """X · Σ f · P: 1 if all experts are used alike, up to X / k if always the same k are."""
        rows, experts = self.probabilities.shape
        mean = self.probabilities.sum(0) / max(rows, 1)  # (X,)
        return experts * (self.use * mean).sum()

    def entropy(self) -> torch.Tensor:
        """Mean entropy of the router, as a share of the greatest possible: 0 sure, 1 undecided."""
        p = self.probabilities.detach()
        entropy = -(p * p.clamp_min(1e-9).log()).sum(-1)  # (R,)
        return entropy.sum() / max(len(p), 1) / math.log(p.shape[-1])


class ExpertProjection(nn.Module):
    """X linear maps D → E and the router that weighs them.

    Args:
        width: D of the features that are projected.
        embed: E.
        context: width of what the router reads.
        experts: X.
        top_k: experts per row.
    """

    def __init__(self, width: int, embed: int, context: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(width, embed) for _ in range(experts))
        self.router = nn.Linear(context, experts)
        self.top_k = top_k

    def route(self, context: torch.Tensor) -> Routing:
        """Rows (R, C) → who projects them, decided in fp32 also under autocast."""
        with torch.autocast(context.device.type, enabled=False):
            weight, bias = precise(self.router.weight), precise(self.router.bias)
            logits = F.linear(precise(context), weight, bias)
            return Routing(logits.softmax(-1), self.top_k)

    def forward(self, features: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """Features (R, …, D) with the gates (R, X) of their rows → (R, …, E).

        All experts project and the gates choose: for heads this small that is faster than
        sending each row to its own.
        """
        found = torch.stack([expert(features) for expert in self.experts], dim=1)  # (R, X, …, E)
        gates = gates.to(found.dtype).view(*gates.shape, *[1] * (features.ndim - 1))
        return (gates * found).sum(1)
