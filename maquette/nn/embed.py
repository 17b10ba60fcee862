"""Numbers as vectors. Tensors in, tensors out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class TwoLayers(nn.Module):
    """Linear, SiLU, linear, under diffusers' names: [B,D] -> [B,E]."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inside, outside), nn.Linear(outside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


def places(high: int, wide: int, width: int, slowest: float = 10_000.0, span: float | None = None) -> Tensor:
    """Sines and cosines of each place's row and column, a quarter of the channels each: [high * wide, width].

    With `span`, rows and columns are counted from 0 to it however many there are, so that every picture lies where one of that
    side did.
    """
    frequency = slowest ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = (
        torch.arange(n, dtype=torch.float64)[:, None] * (1 if span is None else span / n) * frequency for n in (high, wide)
    )
    down, across = (torch.cat([angle.sin(), angle.cos()], 1).float() for angle in (row, column))
    return torch.cat([down.repeat_interleave(wide, 0), across.repeat(high, 1)], 1)


class GridPlaces(nn.Module):
    """A learned vector for each place of a grid, the sum of one per axis: `weight` [places, width], the last axis fastest.

    Args:
        axes: places along each axis, such as rows, columns and symbols of a place.
        width: of the vectors.
    """

    def __init__(self, axes: tuple[int, ...], width: int):
        super().__init__()
        self.axes = nn.ModuleList(nn.Embedding(size, width) for size in axes)

    @property
    def weight(self) -> Tensor:
        whole = torch.zeros(1, 1, device=self.axes[0].weight.device)  # type: ignore[arg-type]
        for axis in self.axes:
            whole = (whole[:, None] + axis.weight).flatten(0, 1)  # type: ignore[operator]
        return whole


def widened(told: nn.Linear | None, more: int, width: int) -> nn.Linear:
    """A layer without bias that hears `more` numbers after those that `told` hears, and at first pays them no heed."""
    known = told.in_features if told is not None else 0
    wide = nn.Linear(known + more, width, bias=False)
    with torch.no_grad():
        wide.weight[:, known:] = 0
        if told is not None:
            wide.weight[:, :known] = told.weight
    return wide
