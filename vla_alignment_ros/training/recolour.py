"""Copies of pictures in other colours: what they teach of shapes holds whatever the colour."""

from __future__ import annotations

import math

import torch

LEAST_TURN_RAD = math.radians(30)  # a smaller one leaves most colours what they are called


def recoloured(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures (B, h, w, 3) in 0…255 with their hues turned, each as a whole by its own angle.

    A rotation of RGB about the axis of greys: what is grey stays as it is, and the mean of the
    three channels is kept, but where a channel leaves 0…255.
    """
    count, device = len(pixels), pixels.device
    turn = torch.rand(count, generator=generator, device=device)  # of what is left of a circle
    angle = LEAST_TURN_RAD + turn * (2 * math.pi - 2 * LEAST_TURN_RAD)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    same, mean = torch.eye(3, device=device), torch.full((3, 3), 1 / 3, device=device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / math.sqrt(3)
    matrix = cos * same + (1 - cos) * mean + sin * cross  # (B, 3, 3), Rodrigues' formula
    return torch.einsum('bhwc,bdc->bhwd', pixels, matrix).clamp_(0, 255)
