"""Networks over pixels in raster order: what those of one symbol after another share, whatever lies between input and logits.

Knows grids of levels and a condition vector; nothing of convolutions beyond one pixel, of recurrences, training or sampling.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import Condition, Network, device_of

BOOST = 4.0  # maps over places start at 0 and have far to go: their learning rate is this times the network's (Karras 2018, 4.1)


def channel_mask(inside: int, outside: int, channels: int, kind: str) -> Tensor:
    """Which inputs an output may see at its own pixel: bool[outside, inside].

    Features come in `channels` equal groups (R, G, B). Kind "A": group c sees groups < c (the first layer, whose inputs
    are the pixels themselves); "B": groups <= c (van den Oord 2016, "Pixel Recurrent Neural Networks", section 3.4).
    """
    group_in = torch.arange(inside) * channels // inside
    group_out = torch.arange(outside) * channels // outside
    return group_in[None] < group_out[:, None] if kind == "A" else group_in[None] <= group_out[:, None]


class PointConv(nn.Conv2d):
    """A 1x1 convolution masked "B" over channel groups."""

    mask: Tensor

    def __init__(self, inside: int, outside: int, channels: int):
        super().__init__(inside, outside, 1)
        mask = channel_mask(inside, outside, channels, "B")
        self.register_buffer("mask", mask[:, :, None, None].float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias)


class Raster(Network):
    """int64[B,T] -> logits [B,T,levels]; row t scores symbol t given those before it.

    The input is `[bos, x_0, ..., x_{T-2}]` in raster order with channels innermost, or any beginning of it. A network of this
    kind says how it scores rows of pixels (`rows`), what it remembers (`begin`), and what comes after one symbol more (`next`).

    Args:
        shape: (C, H, W) of the images.
        levels: symbols per channel; `levels` itself begins a sequence.
        told: width of the condition vector; 0 = unconditional.
        dropout: share of the feature maps that training hides.
    """

    edges = ("embed", "head")

    def __init__(self, shape: tuple[int, ...], levels: int, told: int, dropout: float):
        super().__init__()
        channels, height, breadth = shape
        self.shape, self.levels, self.told, self.dropout = (channels, height, breadth), levels, told, dropout
        features = min(levels, 16)
        self.embed = nn.Embedding(levels, features)
        waves = torch.arange(levels)[:, None] * torch.arange(features) * (math.pi / max(1, levels - 1))
        self.embed.weight.data = waves.cos()  # ordinal from the start: 1, the level as a number, then finer waves

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        """int64[B,T] -> [B,T,levels]; with a state, x holds the newest T symbols only. t is not used."""
        vector = cond.vector if cond is not None else None
        if vector is None and self.told:
            raise ValueError(f"this network must be told a condition vector of width {self.told}")
        if state is not None:
            return torch.stack([self.next(symbol, vector, state) for symbol in x.unbind(1)], 1)
        channels, _, breadth = self.shape
        length = x.shape[1]
        count = -(-length // (channels * breadth))  # rows below the last scored pixel need not exist
        known = F.pad(x[:, 1:], (0, count * breadth * channels - length + 1))
        found = self.rows(known.view(-1, count, breadth, channels), vector)
        return found.permute(0, 3, 4, 1, 2).reshape(len(x), -1, self.levels)[:, :length]

    def rows(self, symbols: Tensor, vector: Tensor | None) -> Tensor:
        """int64[B,H,W,C], of which the last may be unknown -> logits [B,C,levels,H,W]: each symbol's given those before it."""
        raise NotImplementedError

    def next(self, symbol: Tensor, vector: Tensor | None, state: Any) -> Tensor:
        """Logits [B,levels] of the next symbol, given the newest one int64[B] (bos before the first)."""
        raise NotImplementedError

    def see(self, symbols: Tensor) -> Tensor:
        """Symbols as features, a group per channel: int64[B,H,W,C] -> [B,C*D,H,W]."""
        return self.embed(symbols.clamp(0, self.levels - 1)).flatten(3).permute(0, 3, 1, 2)

    def blank(self, batch: int, length: int) -> Tensor:
        """Symbols int64[B,T] of whole images, however many of them will be written.

        Raises:
            ValueError: more symbols than an image holds.
        """
        held = math.prod(self.shape)
        if length > held:
            raise ValueError(f"length is {length}; an image of {self.shape} holds {held} symbols")
        return torch.zeros(batch, held, dtype=torch.int64, device=device_of(self))
