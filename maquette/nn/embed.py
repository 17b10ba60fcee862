"""Numbers as vectors. Tensors in, tensors out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def fourier(t: Tensor, width: int, scale: float = 1000.0, slowest: float = 10_000.0) -> Tensor:
    """cos and sin of t at `width / 2` frequencies, falling geometrically: [B] -> [B, width] (Vaswani 2017, sec. 3.5).

    `scale` brings t in 0..1 to the range of the step numbers that the frequencies were made for.
    """
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(slowest) / half))
    angle = t.float()[:, None] * scale * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


class TimeEmbedding(nn.Module):
    """Times [B] in 0..1 -> [B, width]: Fourier features and a two-layer network.

    Args:
        features: how many Fourier features.
        width: of the vectors.
    """

    def __init__(self, features: int, width: int):
        super().__init__()
        self.features, self.width = features, width
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(fourier(t, self.features))


def widened(told: nn.Linear | None, more: int, width: int) -> nn.Linear:
    """A layer without bias that hears `more` numbers after those that `told` hears, and at first pays them no heed."""
    known = told.in_features if told is not None else 0
    wide = nn.Linear(known + more, width, bias=False)
    with torch.no_grad():
        wide.weight[:, known:] = 0
        if told is not None:
            wide.weight[:, :known] = told.weight
    return wide
