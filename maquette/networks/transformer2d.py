"""The transformer within Stable Diffusion's U-Net, under diffusers' tensor names: places attend to places, then to words.

Knows a condition's tokens and mask; not what they stand for.
"""

from __future__ import annotations

from torch import Tensor, nn

from maquette.contracts import Condition
from maquette.nn.channels_last import Pointwise, heed, norm_silu
from maquette.nn.mlp import GEGLU, FeedForward


class Transformer2D(nn.Module):
    """Transformer blocks between two projections, plus the input: [B,C,H,W] -> [B,C,H,W] (Rombach 2022, sec. 3.3).

    Args:
        heads: of each attention; they must divide the channels.
        depth: blocks.
        words: width of the condition's tokens.
        groups: of the normalisation before.
        linear: projections are matrices, not 1 x 1 convolutions.
    """

    def __init__(self, channels: int, heads: int, depth: int, words: int, groups: int, linear: bool):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in, self.proj_out = (
            nn.Linear(channels, channels) if linear else Pointwise(channels, channels) for _ in range(2)
        )
        self.transformer_blocks = nn.ModuleList(_Block(channels, heads, words) for _ in range(depth))

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.proj_in(norm_silu(x, self.norm, silu=False).permute(0, 2, 3, 1).reshape(batch, -1, channels))
        for block in self.transformer_blocks:
            h = block(h, cond)
        return x + self.proj_out(h).view(batch, height, width, channels).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """x + attention to x, then to words, then a feed-forward layer, each of the normalised x: [B,T,D] -> [B,T,D]."""

    def __init__(self, width: int, heads: int, words: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1, self.attn2 = _Heed(width, width, heads), _Heed(width, words, heads)
        self.ff = FeedForward(width, GEGLU(width, 4 * width))

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), cond.tokens, cond.mask)
        return x + self.ff(self.norm3(x))


class _Heed(nn.Module):
    """Multi-head attention of x [B,T,D] to what is seen [B,S,E] where the mask [B,S] is True -> [B,T,D]."""

    def __init__(self, width: int, seen: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(seen, width, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.to_out[0](heed(self.to_q(x), self.to_k(seen), self.to_v(seen), self.heads, mask))
