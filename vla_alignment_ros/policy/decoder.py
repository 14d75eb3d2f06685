"""A transformer decoder that reads one context many times: its keys and values are made once.

Sampling asks the same context about K candidates, several times each. `nn.TransformerDecoder`
would project the context anew for every candidate and every step; here that is done once, and
the queries of all candidates meet it in one product.

Shapes: M context tokens, K candidates, H horizon, D width, h heads, d = D / h.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
import torch.nn.functional as F


@dataclass(frozen=True)
class Remembered:
    """A context as every layer of a decoder sees it."""

    keys: tuple[torch.Tensor, ...]  # per layer (1, h, M, d)
    values: tuple[torch.Tensor, ...]  # per layer (1, h, M, d)
    mask: torch.Tensor | None  # (1, 1, 1, M) True where a token counts; None: everywhere


class RememberingDecoder(nn.TransformerDecoder):
    """`nn.TransformerDecoder` (pre-norm, no dropout, batch first) with `remember` and `recall`.

    Called as usual it is its base class; `recall(x, remember(context))` gives the same for one
    context and K rows of x, and costs little more for many rows than for one.
    """

    def __init__(self, width: int, heads: int, layers: int) -> None:
        layer = nn.TransformerDecoderLayer(
            width, heads, 2 * width, dropout=0.0, activation='gelu', batch_first=True,
            norm_first=True,
        )  # fmt: skip
        super().__init__(layer, layers, norm=nn.LayerNorm(width))

    def remember(self, context: torch.Tensor, padding: torch.Tensor) -> Remembered:
        """Read a context (1, M, D); padding (1, M) is True where a token is to be ignored."""
        keys, values = [], []
        for layer in self.layers:
            attention = layer.multihead_attn
            width = attention.embed_dim
            weight, bias = attention.in_proj_weight[width:], attention.in_proj_bias[width:]
            key, value = F.linear(context, weight, bias).chunk(2, dim=-1)  # (1, M, D) each
            # read many times: in one piece
            keys.append(_heads(key, attention.num_heads).contiguous())
            values.append(_heads(value, attention.num_heads).contiguous())
        mask = ~padding[:, None, None] if padding.any() else None
        return Remembered(tuple(keys), tuple(values), mask)

    def recall(self, x: torch.Tensor, memory: Remembered) -> torch.Tensor:
        """Rows (K, H, D) decoded against the remembered context → (K, H, D)."""
        rows, horizon, width = x.shape
        for layer, keys, values in zip(self.layers, memory.keys, memory.values):
            own, other = layer.self_attn, layer.multihead_attn
            projected = F.linear(layer.norm1(x), own.in_proj_weight, own.in_proj_bias)
            query, key, value = (_heads(p, own.num_heads) for p in projected.chunk(3, dim=-1))
            found = F.scaled_dot_product_attention(query, key, value)  # (K, h, H, d)
            x = x + own.out_proj(_joined(found))
            # all rows ask as one long row: the context is the same for them
            asked = layer.norm2(x).reshape(1, rows * horizon, width)
            query = F.linear(asked, other.in_proj_weight[:width], other.in_proj_bias[:width])
            found = F.scaled_dot_product_attention(
                _heads(query, other.num_heads), keys, values, attn_mask=memory.mask
            )  # (1, h, K·H, d)
            x = x + other.out_proj(_joined(found)).view(rows, horizon, width)
            x = x + layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))
        return self.norm(x)


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, L, D) → (B, h, L, d)


def _joined(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)  # (B, h, L, d) → (B, L, D)
