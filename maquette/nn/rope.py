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


def picture_turns(
    before: int, high: int, wide: int, axes: tuple[int, ...], theta: float = 10000.0, device: torch.device | None = None
) -> Tensor:
    """cos and sin [before + high * wide, D / 2, 2] of `before` tokens that have no place, then of a picture's.

    `axes`: how many channels of a head do not turn, how many turn by the row and how many by the column (Su 2021, eq. 15, along
    each, as Flux). Channel 2 i turns with channel 2 i + 1: for `rotate_pairs`.
    """

    def along(length: int, width: int) -> Tensor:
        speed = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * speed  # on the CPU: not every device has float64
        return torch.stack([angle.cos(), angle.sin()], -1).float().to(device)

    still, down, across = axes
    rows, columns = along(high, down).repeat_interleave(wide, 0), along(wide, across).repeat(high, 1, 1)
    none = along(1, still).expand(high * wide, -1, -1)
    turn = torch.cat([none, rows, columns], 1)
    return torch.cat([along(1, sum(axes)).expand(before, -1, -1), turn])


def rotate_pairs(x: Tensor, turn: Tensor) -> Tensor:
    """[B,T,H,D] turned by its positions' cos and sin [T,D/2,2], in x's precision: neighbours times e^(i angle), as one number.

    A compiler of graphs is shown the same in real numbers, which it knows how to write.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (a, b), (cos, sin) = pairs.unbind(-1), turn[:, None].unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(turn)[:, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
