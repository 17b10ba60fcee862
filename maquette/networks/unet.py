"""U-Net for images: residual blocks down and up with skips between, attention at the lowest resolution (Ho 2020).

Knows no process: it maps a dissolved image, a time and a condition to an image of the same shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.nn.conv import Down, ResBlock, SpatialAttention, Up, fold, group_norm, unfold, zeroed
from maquette.nn.embed import TimeEmbedding, widened


class UNet(Network):
    """[B,C,H,W] at time t [B] -> [B,C,H,W].

    Args:
        channels: of the image.
        width: channels at the highest resolution.
        mults: width at each resolution, as multiples; H and W must divide by 2^(len - 1) * folding.
        blocks: residual blocks per resolution on the way down; one more on the way up.
        vector, field: widths of the condition's slots; 0 = never told.
        dropout: share of hidden activations dropped in training.
        folding: squares of this many pixels a side become channels first: large images, cheaper.
    """

    edges = ("stem", "head", "told")

    def __init__(
        self,
        channels: int,
        width: int = 32,
        mults: tuple[int, ...] = (1, 2),
        blocks: int = 2,
        vector: int = 0,
        field: int = 0,
        dropout: float = 0.0,
        folding: int = 1,
    ):
        super().__init__()
        self.channels, self.field, self.folding = channels, field, folding
        self.step = folding * 2 ** (len(mults) - 1)
        embedding, widths = 4 * width, [width * m for m in mults]
        self.time = TimeEmbedding(2 * width, embedding)
        self.told = nn.Linear(vector, embedding, bias=False) if vector else None
        self.stem = nn.Conv2d((channels + field) * folding**2, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, now = [width], width
        for level, to in enumerate(widths):
            lowest = level == len(widths) - 1
            for _ in range(blocks):
                self.down.append(_Stage(now, to, embedding, dropout, attention=lowest))
                skips.append(now := to)
            if not lowest:
                self.down.append(Down(now))
                skips.append(now)
        first = _Stage(now, now, embedding, dropout, attention=True)
        self.middle = nn.ModuleList([first, ResBlock(now, now, embedding, dropout)])
        for level, to in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(_Stage(now + skips.pop(), to, embedding, dropout, attention=level == len(widths) - 1))
                now = to
            if level:
                self.up.append(Up(now))
        self.norm = group_norm(now)
        self.head = zeroed(nn.Conv2d(now, channels * folding**2, 3, padding=1))

    def widen(self, more: int) -> None:
        """Hear `more` numbers behind the condition's vector; what comes out stays as it is until it learns to heed them."""
        self.told = widened(self.told, more, self.time.width)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        if x.shape[1] != self.channels or x.shape[2] % self.step or x.shape[3] % self.step:
            raise ValueError(
                f"this U-Net takes images of {self.channels} channels whose sides divide by {self.step}, not {tuple(x.shape[1:])}"
            )
        embedding = F.silu(self._embed(x, t, cond))
        if self.field:
            hint = cond.field if cond is not None and cond.field is not None else x.new_zeros(len(x), self.field, *x.shape[2:])
            x = torch.cat([x, hint], 1)
        h = self.stem(fold(x, self.folding))
        kept = [h]
        for layer in self.down:
            h = layer(h) if isinstance(layer, Down) else layer(h, embedding)
            kept.append(h)
        for layer in self.middle:
            h = layer(h, embedding)
        for layer in self.up:
            h = layer(h) if isinstance(layer, Up) else layer(torch.cat([h, kept.pop()], 1), embedding)
        return unfold(self.head(F.silu(self.norm(h))), self.folding)

    def _embed(self, x: Tensor, t: Tensor | None, cond: Condition | None) -> Tensor:
        """Time and label as one vector [B,E]."""
        h = self.time(x.new_zeros(len(x)) if t is None else t)
        if self.told is not None and cond is not None and cond.vector is not None:
            h = h + self.told(cond.vector)
        return h


class _Stage(nn.Module):
    """A residual block, and attention where asked."""

    def __init__(self, inside: int, outside: int, embedding: int, dropout: float, attention: bool):
        super().__init__()
        self.block = ResBlock(inside, outside, embedding, dropout)
        self.attention = SpatialAttention(outside) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))
