"""Gated PixelCNN: masked convolutions that score every pixel given those before it in raster order, channel by channel.

Knows grids of levels and a condition vector; nothing of training or sampling. (van den Oord 2016, "Conditional Image
Generation with PixelCNN Decoders": a vertical and a horizontal stack, so that no pixel above or to the left is unseen.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import Condition, Network


def channel_mask(inside: int, outside: int, channels: int, kind: str) -> Tensor:
    """Which inputs an output may see at its own pixel: bool[outside, inside].

    Features come in `channels` equal groups (R, G, B). Kind "A": group c sees groups < c (the first layer, whose inputs
    are the pixels themselves); "B": groups <= c (van den Oord 2016, "Pixel Recurrent Neural Networks", section 3.4).
    """
    group_in = torch.arange(inside) * channels // inside
    group_out = torch.arange(outside) * channels // outside
    return group_in[None] < group_out[:, None] if kind == "A" else group_in[None] <= group_out[:, None]


class PointConv(nn.Conv2d):
    """A 1x1 convolution masked "B" over channel groups; `halves` output blocks (a gate's two) each have the groups."""

    def __init__(self, inside: int, outside: int, channels: int, halves: int = 1):
        super().__init__(inside, outside * halves, 1)
        mask = channel_mask(inside, outside, channels, "B").repeat(halves, 1)
        self.register_buffer("mask", mask[:, :, None, None].float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias)


class RightConv(nn.Conv2d):
    """A row convolution over `reach` pixels to the left and the pixel itself, whose own tap is masked `kind`."""

    def __init__(self, inside: int, outside: int, channels: int, reach: int, kind: str):
        super().__init__(inside, 2 * outside, (1, reach + 1))
        mask = torch.ones(2 * outside, inside, 1, reach + 1)
        mask[:, :, 0, -1] = channel_mask(inside, outside, channels, kind).repeat(2, 1).float()
        self.register_buffer("mask", mask, persistent=False)
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (self.reach, 0)), self.weight * self.mask, self.bias)


class DownConv(nn.Conv2d):
    """A convolution over the rows above; `own` adds the row itself, which in later layers knows only rows above."""

    def __init__(self, inside: int, outside: int, reach: int, own: bool):
        super().__init__(inside, 2 * outside, (reach + own, 2 * reach + 1))
        self.reach, self.own = reach, own

    def forward(self, x: Tensor) -> Tensor:
        rows = x if self.own else x[:, :, :-1]
        above = self.kernel_size[0] - 1 + (not self.own)
        return F.conv2d(F.pad(rows, (self.reach, self.reach, above, 0)), self.weight, self.bias)


def gate(x: Tensor) -> Tensor:
    """tanh(a) * sigmoid(b) of the two halves of the channels: [B,2D,H,W] -> [B,D,H,W] (van den Oord 2016b, eq. 2)."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """One layer of both stacks: (down, right) [B,D,H,W] each -> the same (van den Oord 2016b, figure 2)."""

    def __init__(self, inside: int, width: int, channels: int, reach: int, told: int, first: bool, dropout: float):
        super().__init__()
        self.down = DownConv(inside, width, reach, own=not first)
        self.right = RightConv(inside, width, channels, reach, "A" if first else "B")
        self.cross = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = PointConv(width, width, channels)
        self.told = nn.Linear(told, 4 * width, bias=False) if told else None
        self.first, self.dropout = first, dropout

    def forward(self, down: Tensor, right: Tensor, place: Tensor | None, vector: Tensor | None) -> tuple[Tensor, Tensor]:
        below = self.down(down)
        across = self.right(right) + self.cross(below)
        if place is not None:
            shift_down, shift_right = place.chunk(2)
            below, across = below + shift_down, across + shift_right
        if self.told is not None and vector is not None:
            bias_down, bias_right = self.told(vector)[:, :, None, None].chunk(2, 1)
            below, across = below + bias_down, across + bias_right
        moved = self.out(F.dropout2d(gate(across), self.dropout, self.training))
        below = F.dropout2d(gate(below), self.dropout, self.training)
        return below, moved if self.first else right + moved


class PixelCNN(Network):
    """int64[B,T] -> logits [B,T,levels]; row t scores symbol t given those before it.

    The input is `[bos, x_0, ..., x_{T-2}]` in raster order with channels innermost, or any beginning of it.

    Args:
        shape: (C, H, W) of the images.
        levels: symbols per channel; `levels` itself begins a sequence.
        width: features per stack, rounded up to a multiple of C.
        depth: gated layers.
        told: width of the condition vector that biases every gate; 0 = unconditional.
        reach: pixels each convolution sees in every direction it may look in; the first layer sees one more.
        dropout: share of gated features that training hides.
    """

    edges = ("embed", "head")

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        width: int = 64,
        depth: int = 6,
        told: int = 0,
        reach: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__()
        channels, height, breadth = shape
        self.shape, self.levels = tuple(shape), levels
        width = -(-width // channels) * channels
        features = min(levels, 16)
        self.embed = nn.Embedding(levels, features)
        self.place = nn.Parameter(torch.zeros(4 * width, height, breadth))
        ends = [features * channels] + [width] * depth
        self.layers = nn.ModuleList(
            GatedLayer(ends[i], width, channels, reach + (i == 0), told, i == 0, dropout) for i in range(depth)
        )
        self.mix = PointConv(width, width, channels)
        self.head = PointConv(width, levels * channels, channels)
        self.shift = nn.Parameter(torch.zeros(levels * channels, height, breadth))
        self.dropout = dropout
        grid = torch.arange(levels)[:, None] * torch.arange(features) * (math.pi / max(1, levels - 1))
        self.embed.weight.data = grid.cos()  # ordinal from the start: 1, the level as a number, then finer waves
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        channels, _, breadth = self.shape
        length = x.shape[1]
        rows = -(-length // (channels * breadth))  # rows below the last scored pixel need not exist
        known = F.pad(x[:, 1:], (0, rows * breadth * channels - length + 1)).clamp(0, self.levels - 1)
        pixels = self.embed(known.view(-1, rows, breadth, channels))
        down = right = pixels.flatten(3).permute(0, 3, 1, 2)
        vector = cond.vector if cond is not None else None
        for layer in self.layers:
            down, right = layer(down, right, 4 * self.place[:, :rows] if layer.first else None, vector)
        out = self.head(F.dropout2d(F.relu(self.mix(F.relu(right))), self.dropout, self.training)) + 10 * self.shift[:, :rows]
        return out.view(-1, channels, self.levels, rows, breadth).permute(0, 3, 4, 1, 2).reshape(len(x), -1, self.levels)[:, :length]
