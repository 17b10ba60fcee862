"""DiT: a transformer over the patches of a dissolved image, steered at every block by its time and its condition (Peebles 2023).

Knows no process: it maps a dissolved image, a time and a condition to an image of the same shape.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.nn.attention import attend
from maquette.nn.conv import fold, unfold, zeroed
from maquette.nn.embed import TimeEmbedding, places, widened
from maquette.nn.gelu import gelu
from maquette.nn.norm import adaptive, gated


class Block(nn.Module):
    """Attention and feed-forward under adaLN-Zero (Peebles 2023, sec. 3.2): [B,N,D] -> [B,N,D].

    The condition gives each branch a shift, a scale and a gate; all begin at 0, so a new block is the identity.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rise, self.fall = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.steer = zeroed(nn.Linear(width, 6 * width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.steer(told).chunk(6, 1)
        x = gated(x, gate1, self.dropout(self._attend(adaptive(x, shift1, scale1))))
        h = self.fall(gelu(self.rise(adaptive(x, shift2, scale2))))
        return gated(x, gate2, self.dropout(h))

    def _attend(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, causal=False).transpose(1, 2).reshape(batch, count, width))


class DiT(Network):
    """[B,C,H,W] at time t [B] -> [B,C,H,W].

    Args:
        shape: (C, H, W) of the images.
        width: channels of a token; a multiple of 4 and of `heads`.
        depth: blocks.
        heads: of attention.
        patch: pixels to a side of a token; divides H and W.
        vector: width of the condition's vector; 0 = never told.
        dropout: on what each branch adds.

    Raises:
        ValueError: a patch that does not divide the sides, a width that does not divide.
    """

    edges = ("stem", "head", "told", "time")
    places: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        patch: int = 2,
        vector: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        channels, high, wide = shape
        if patch < 1 or high % patch or wide % patch:
            raise ValueError(f"patch is {patch}; it must divide the image's sides, {high} and {wide}")
        step = math.lcm(4, heads)
        if width % step:
            raise ValueError(
                f"width is {width}; it must be a multiple of {step}, nearest is {max(1, round(width / step)) * step}"
            )
        self.shape, self.patch, inside = (channels, high, wide), patch, channels * patch**2
        self.stem = nn.Linear(inside, width)
        self.register_buffer("places", places(high // patch, wide // patch, width), persistent=False)
        self.time = TimeEmbedding(256, width)
        self.told = nn.Linear(vector, width, bias=False) if vector else None
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.steer = zeroed(nn.Linear(width, 2 * width))
        self.head = zeroed(nn.Linear(width, inside))

    def widen(self, more: int) -> None:
        """Hear `more` numbers behind the condition's vector; what comes out stays as it is until it learns to heed them."""
        self.told = widened(self.told, more, self.time.width)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        if x.shape[1:] != self.shape:
            raise ValueError(f"this DiT takes images of {self.shape}, not {tuple(x.shape[1:])}")
        told = self.time(x.new_zeros(len(x)) if t is None else t)
        if self.told is not None and cond is not None and cond.vector is not None:
            told = told + self.told(cond.vector)
        told = F.silu(told)
        h = self.stem(fold(x, self.patch).flatten(2).mT) + self.places
        for block in self.blocks:
            h = block(h, told)
        shift, scale = self.steer(told).chunk(2, 1)
        h = self.head(adaptive(h, shift, scale)).mT
        return unfold(h.unflatten(2, (self.shape[1] // self.patch, -1)), self.patch)
