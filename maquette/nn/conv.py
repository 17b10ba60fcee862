"""Convolutional blocks of U-Nets: [B,C,H,W] in, [B,C',H',W'] out, channels first (on CPUs its norms run faster)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.attention import attend


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups, of at least 4 channels each."""
    groups = min(32, max(1, channels // 4))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels, eps=1e-5)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all parameters 0, so that its branch begins as nothing."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class ResBlock(nn.Module):
    """norm, SiLU, conv, norm scaled and shifted by an embedding, SiLU, dropout, conv; plus the input (Dhariwal 2021).

    Args:
        inside, outside: channels in and out.
        embedding: width of the embedding vector.
        dropout: share of hidden activations dropped in training.
    """

    def __init__(self, inside: int, outside: int, embedding: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.norm2 = group_norm(inside), group_norm(outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(outside, outside, 3, padding=1))
        self.tell = nn.Linear(embedding, 2 * outside)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [B,C,H,W], embedding [B,E] -> [B,C',H,W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.tell(embedding)[:, :, None, None].chunk(2, 1)
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        return self.skip(x) + self.conv2(self.dropout(h))


class SpatialAttention(nn.Module):
    """Every place of an image attends to every place, plus the input: [B,C,H,W] -> [B,C,H,W].

    Args:
        head: channels of a head.
    """

    def __init__(self, channels: int, head: int = 32):
        super().__init__()
        self.heads = max(1, channels // head)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        each = self.qkv(self.norm(x)).view(batch, 3, self.heads, channels // self.heads, height * width).mT
        q, k, v = each.unbind(1)
        h = attend(q, k, v, causal=False)
        return x + self.out(h.mT.reshape(batch, channels, height, width))


class Down(nn.Module):
    """Half the resolution, by a strided convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Up(nn.Module):
    """Twice the resolution: nearest neighbour, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def fold(x: Tensor, by: int) -> Tensor:
    """Squares of by x by pixels as channels: [B,C,H,W] -> [B,C*by*by,H/by,W/by]."""
    return F.pixel_unshuffle(x, by) if by > 1 else x


def unfold(x: Tensor, by: int) -> Tensor:
    """The inverse of `fold`."""
    return torch.pixel_shuffle(x, by) if by > 1 else x
