"""A bidirectional transformer over a grid of symbols: convolutions read and write pixels, attention works on patches.

Knows levels, the mask, places in two dimensions and a condition vector; neither how symbols were hidden nor how they are drawn.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import Condition, Network
from maquette.networks.raster import BOOST
from maquette.nn.attention import Attention
from maquette.nn.mlp import Gated
from maquette.nn.norm import RMSNorm


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), both seeing all places: [B,N,D] -> [B,N,D]."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attention = Attention(width, heads, causal=False)
        self.mlp = Gated(width, 2 * width)
        self.dropout = dropout
        for layer in (self.attention.out, self.mlp.down):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.attention(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout whose mask all places share (Gal & Ghahramani 2016): cheaper, and no place can stand in for another."""
        if not self.training or not self.dropout:
            return x
        return x * F.dropout(x.new_ones(len(x), 1, x.shape[2]), self.dropout)


class PixelBlock(nn.Module):
    """A residual pair of 3x3 convolutions: [B,D,H,W] -> [B,D,H,W]."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.dropout = dropout
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout2d(F.silu(self.first(F.silu(x))), self.dropout, self.training)
        return x + self.second(h)


class GridTransformer(Network):
    """int64[B,T] of levels and masks -> logits [B,T,levels] of every place, in raster order with channels innermost.

    Args:
        shape: (C, H, W) of the images.
        levels: symbols per channel; `levels` itself is the mask.
        width: channels of the transformer; a multiple of 32.
        depth: its blocks.
        patch: pixels to a side of what attention takes as one token; divides H and W.
        told: width of the condition vector; 0 = none.
        dropout: on what each block adds.
    """

    edges = ("embed", "stem", "told", "head")

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        width: int = 192,
        depth: int = 4,
        patch: int = 2,
        told: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        channels, high, wide = shape
        if high % patch or wide % patch:
            raise ValueError(f"patch is {patch}; it must divide the image's sides, {high} and {wide}")
        if width % 32:
            raise ValueError(f"width is {width}; it must be a multiple of 32, nearest is {max(1, round(width / 32)) * 32}")
        self.shape, self.levels, self.patch = (channels, high, wide), levels, patch
        features, narrow = min(levels, 16), width // 4
        self.embed = nn.Embedding(levels + 1, features)
        self.stem = nn.Conv2d(features * channels, narrow, 3, padding=1)
        self.before, self.after = PixelBlock(narrow, dropout), PixelBlock(narrow, dropout)
        self.merge = nn.Conv2d(narrow, width, patch, stride=patch)
        self.split = nn.Linear(width, narrow * patch * patch)
        self.places = nn.Parameter(torch.zeros(high * wide // patch**2, width))
        self.ground = nn.Parameter(torch.zeros(narrow, high, wide))
        self.told = nn.Linear(told, width, bias=False) if told else None
        self.blocks = nn.ModuleList(Block(width, width // 32, dropout) for _ in range(depth))
        self.norm = RMSNorm(width)
        self.head = nn.Conv2d(narrow, levels * channels, 1)
        self.bias = nn.Parameter(torch.zeros(levels * channels, high, wide))
        waves = torch.arange(levels + 1)[:, None] * torch.arange(features) * (math.pi / max(1, levels - 1))
        self.embed.weight.data = waves.cos()  # ordinal from the start: 1, the level as a number, then finer waves
        self.embed.weight.data[levels] = 0
        nn.init.normal_(self.places, std=0.02)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        """int64[B,T] -> [B,T,levels]; t is not used, the masks show how far the image is."""
        channels, high, wide = self.shape
        if self.told is not None and (cond is None or cond.vector is None):
            raise ValueError(f"this network must be told a condition vector of width {self.told.in_features}")
        pixels = self.embed(x.view(-1, high, wide, channels)).flatten(3).permute(0, 3, 1, 2)
        near = self.before(self.stem(pixels) + BOOST * self.ground)
        h = self.merge(near).flatten(2).mT + BOOST * self.places
        if self.told is not None and cond is not None and cond.vector is not None:
            h = h + self.told(cond.vector)[:, None]
        for block in self.blocks:
            h = block(h)
        h = self.split(self.norm(h)).mT.unflatten(2, (high // self.patch, -1))
        out = self.head(F.silu(self.after(near + torch.pixel_shuffle(h, self.patch)))) + 2 * BOOST * self.bias
        return out.view(-1, channels, self.levels, high, wide).permute(0, 3, 4, 1, 2).reshape(len(x), -1, self.levels)
