"""Reading a scene with a sentence: language-conditioned pointers over the image tokens.

Each pointer is a query made from the sentence; its attention over one camera's tokens gives what
is there (attended feature) and where it is (expected image coordinates, a spatial soft-argmax:
Levine et al. 2016, arXiv:1504.00702). Pointing makes localisation cheap to learn, and a query
that composes "red" and "cube" points at pairs that were never trained together.

Shapes: B batch, C cameras, N tokens, P pointers, D width.
"""

from __future__ import annotations

import torch
from torch import nn

from vla_alignment_ros.encoders.vision import VisionFeatures


class PointerFusion(nn.Module):
    """Vision tokens and sentence → fused vector (B, D) and pointer tokens (B, C·P, D).

    The first pointer is the alignment's: where the image fits the sentence is where the sentence
    points, so what aligns the two also tells the hand where to go. What it finds goes into the
    queries of the other P − 1, which may look beside it, or for a tray. Fusion takes no
    proprioception: where the arm is would give away where it is going, and the words would never
    be read.
    """

    def __init__(self, width: int, cameras: int, pointers: int, key_width: int = 64) -> None:
        super().__init__()
        self.own, self.key_width = pointers - 1, key_width
        self.aim = nn.Linear(cameras * (width + 3), width)
        self.query = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, cameras * self.own * key_width)
        )
        self.key = nn.Linear(width, key_width)  # once per token: the dearest layer here
        self.log_sharpness = nn.Parameter(torch.zeros(cameras, self.own))
        self.token = nn.Linear(width + 3, width)
        self.mix = nn.Sequential(
            nn.Linear(cameras * pointers * (width + 3) + width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
        )

    def forward(
        self, vision: VisionFeatures, sentence: torch.Tensor, alignment: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read scenes with sentences.

        Args:
            vision: of B scenes.
            sentence: (B, D) pooled.
            alignment: (B, N) the alignment's logits of each image token for the sentence.

        Returns:
            fused (B, D), tokens (B, C·P, D), and the logits (B, N) of its own first pointer over
            each camera's tokens, which training can teach where to look.
        """
        cameras = len(vision.layout)
        tokens, keys = vision.once(self, self._read)
        cells = [vision.coordinates[camera.slice] for camera in vision.layout]
        named = torch.cat(
            [
                _point(seen, where, logits.unsqueeze(1))
                for seen, where, logits in zip(tokens, cells, vision.by_camera(alignment))
            ],
            dim=1,
        )  # (B, C, D + 3)
        queries = self.query(sentence + self.aim(named.flatten(1)))
        queries = queries.view(len(sentence), cameras, self.own, self.key_width)
        found, first = [named], []
        for index in range(cameras):
            scale = (self.log_sharpness[index].exp() / self.key_width**0.5).view(1, -1, 1)
            logits = queries[:, index] @ keys[index].transpose(1, 2) * scale  # (B, P − 1, n)
            first.append(logits[:, 0])
            found.append(_point(tokens[index], cells[index], logits))  # (B, P − 1, D + 3)
        pointed = torch.cat(found, dim=1)  # (B, C·P, D + 3)
        fused = self.mix(torch.cat([pointed.flatten(1), sentence], dim=-1))
        return fused, self.token(pointed), torch.cat(first, dim=1)


    def _read(self, vision: VisionFeatures) -> tuple[tuple[torch.Tensor, ...], ...]:
        """Tokens (B, n, D) and keys (B, n, K) of each camera."""
        return vision.by_camera(vision.tokens), vision.by_camera(self.key(vision.tokens))


def _point(
    tokens: torch.Tensor, coordinates: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """What and where pointers look in one camera.

    tokens (B, n, D), coordinates (n, 2) of the cells, logits (B, P, n) → (B, P, D + 3).
    """
    attention = logits.softmax(dim=-1)
    where = attention @ coordinates.to(attention.dtype)  # (B, P, 2)
    what = attention @ tokens  # (B, P, D)
    # the peak's logit tells present from absent, which a normalised attention cannot
    strength = torch.tanh(logits.amax(-1, keepdim=True) / 8)  # (B, P, 1)
    return torch.cat([what, where, strength], dim=-1)
