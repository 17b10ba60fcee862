"""Rotary position embedding. Tensors in, tensors out."""

from __future__ import annotations

import torch
from torch import Tensor

Turn = tuple[Tensor, Tensor]


def turns(first: int, length: int, width: int, theta: float = 10000.0, device: torch.device | None = None) -> Turn:
    """cos and sin [T,D] of positions first .. first + length - 1, for heads of `width` channels (Su 2021, eq. 15).

    Channel i turns with channel i + D/2, as in Llama's published weights.
    """
    speed = theta ** -(torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    place = torch.arange(first, first + length, dtype=torch.float32, device=device)
    angle = (place[:, None] * speed).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """[..., T, D] turned by its positions' angles, in x's precision."""
    cos, sin = turn
    left, right = x.chunk(2, -1)
    return (x * cos + torch.cat([-right, left], -1) * sin).to(x.dtype)
