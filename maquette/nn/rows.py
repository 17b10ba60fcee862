"""What a transformer does to each row by itself, natively on a CPU: it passes over memory once where PyTorch does so six times.

Each function equals the textbook's in exact arithmetic, and stays away (`fit`) where it is not at home: on other devices, in
graphs, for rows that are not sixteens. Tensors in, tensors out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maquette.nn.native import TYPES, learns, native, over_rows

BLOCK = 64  # rows that are done together, as in `rows.cpp`
SILU, BELL, QUICK = range(3)


def fit(x: Tensor, sixteens: int = 16) -> bool:
    """Whether rows of x are done natively."""
    return 2 <= x.ndim <= 4 and not x.shape[-1] % sixteens and native(x) and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """x / rms(x) * gain over the last axis, [..., D] and [D] -> [..., D] (Zhang & Sennrich 2019, eq. 4)."""
    if learns(x, gain):
        return _Norm.apply(x, gain, eps)
    return _normed(x, gain, eps)[0]


def turned(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool = False) -> Tensor:
    """[B,H,T,C] turned by cos and sin [T,C] of its places, channel i with channel i + C/2 (Su 2021, eq. 15).

    Args:
        pairs: neighbours turn together, by the angle of the first.
    """
    return _Turn.apply(x, cos, sin, pairs) if learns(x) else _turned(x, cos, sin, pairs, False)


def acted(x: Tensor, act: int, gated: bool = False) -> Tensor:
    """act(x), [..., D] -> [..., D]; gated: act of the first half of a row times the second, [..., 2D] -> [..., D].

    Args:
        act: SILU; BELL, which is GELU by its tanh formula (Hendrycks 2016, eq. 2); or QUICK, by CLIP's, x sigmoid(1.702 x).
    """
    return _Act.apply(x, act, gated) if learns(x) else _acted(x, act, gated)


def steered(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm of [B,N,D], scaled by 1 + scale and shifted, both [B,D] (Peebles 2023, sec. 3.2).

    In the precision that autocast gives to the matrix product behind it.
    """
    return _Steer.apply(x, shift, scale, eps) if learns(x, shift, scale) else _steered(x, shift, scale, eps)[0]


def added(x: Tensor, gate: Tensor, h: Tensor) -> Tensor:
    """x + gate h, [B,N,D] and the gate [B,D], in x's precision."""
    return _Gate.apply(x, gate, h) if learns(x, gate, h) else _added(x, gate, h)


def softened(x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale x) of scores [B,H,T,S] over the last axis, where the mask, bool[T,S] or bool[B,1,T,S], lets be seen.

    A row that sees nothing gets no number.
    """
    return _Soft.apply(x, mask, scale) if learns(x) else _softened(x, mask, scale)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        y, kept = _normed(x, gain, eps, keep=True)
        ctx.save_for_backward(x, gain, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, kept = ctx.saved_tensors
        own, grad = None if gain is None else gain.float().contiguous(), grad.to(x.dtype).contiguous()
        x, lie = _lying(x)
        dx, blocks = torch.empty_like(grad), -(-lie[0] // BLOCK)
        sums = x.new_empty(blocks, x.shape[-1], dtype=torch.float32) if ctx.needs_input_grad[1] else None
        over_rows("rms_back", blocks, x, *lie, x.shape[-1], x, own, kept, grad, dx, sums)
        return dx, None if sums is None or gain is None else sums.sum(0).to(gain.dtype), None


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, pairs: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.pairs = pairs
        return _turned(x, cos, sin, pairs, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, ctx.pairs, True), None, None, None


class _Act(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, act: int, gated: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.told = act, gated
        return _acted(x, act, gated)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (act, gated) = ctx.saved_tensors, ctx.told
        x, grad = x.contiguous(), grad.to(x.dtype).contiguous()
        dx, rows, wide = torch.empty_like(x), x.numel() // x.shape[-1], grad.shape[-1]
        over_rows("act_back", -(-rows // BLOCK), x, rows, wide, act, int(gated), x, grad, dx)
        return dx, None, None


class _Steer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        y, stats = _steered(x, shift, scale, eps, keep=True)
        ctx.save_for_backward(x, shift, scale, stats)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, scale, stats = ctx.saved_tensors
        x, grad, own = x.contiguous(), grad.contiguous(), scale.float().contiguous()
        dx, dshift, dscale = torch.empty_like(x), torch.empty_like(own), torch.empty_like(own)
        _over("steer_back", x, grad, x, own, stats, grad, dx, dshift, dscale)
        return dx, dshift.to(shift.dtype), dscale.to(scale.dtype), None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, h: Tensor) -> Tensor:
        ctx.save_for_backward(gate, h)
        return _added(x, gate, h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, h = ctx.saved_tensors
        own, h, grad = gate.float().contiguous(), h.contiguous(), grad.contiguous()
        dh, dgate = torch.empty_like(h), torch.empty_like(own)
        _over("add_gated_back", grad, h, own, h, grad, dh, dgate)
        return grad, dgate.to(gate.dtype), dh


def _steered(x: Tensor, shift: Tensor, scale: Tensor, eps: float, keep: bool = False) -> tuple[Tensor, Tensor | None]:
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    x, y = x.contiguous(), x.new_empty(x.shape, dtype=kind if kind in TYPES else x.dtype)
    stats = x.new_empty(*x.shape[:2], 2, dtype=torch.float32) if keep else None
    _over("steer", x, y, eps, x, shift.float().contiguous(), scale.float().contiguous(), y, stats)
    return y, stats


def _added(x: Tensor, gate: Tensor, h: Tensor) -> Tensor:
    x, h = x.contiguous(), h.contiguous()
    y = torch.empty_like(x)
    _over("add_gated", x, h, x, gate.float().contiguous(), h, y)
    return y


def _over(name: str, x: Tensor, other: Tensor, *arguments: Tensor | float | None) -> None:
    """Over the rows of a batch [B,N,D], of which some lie like `x` and some like `other`."""
    name = f"{name}_mixed" if x.dtype != other.dtype else name
    over_rows(name, len(x), x, *x.shape[1:], *arguments)


class _Soft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        y = _softened(x, mask, scale)
        ctx.save_for_backward(y)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,), grad = ctx.saved_tensors, grad.contiguous()
        dx, rows = torch.empty_like(y), y.numel() // max(1, y.shape[-1])
        over_rows("soften_back", -(-rows // BLOCK), y, rows, y.shape[-1], ctx.scale, y, grad, dx)
        return dx, None, None


def _softened(x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    x = x.contiguous()
    y, rows, apart, step = torch.empty_like(x), x.numel() // max(1, x.shape[-1]), 0, 0
    if mask is not None:
        mask = mask.contiguous()
        step = mask.stride(-2) if mask.shape[-2] > 1 else 0
        apart = mask.stride(0) if mask.ndim == 4 and len(mask) > 1 else 0
    over_rows("soften", -(-rows // BLOCK), x, rows, *x.shape[1:], scale, mask, apart, step, x, y)
    return y


def _normed(x: Tensor, gain: Tensor | None, eps: float, keep: bool = False) -> tuple[Tensor, Tensor | None]:
    own = None if gain is None else gain.float().contiguous()
    x, lie = _lying(x)
    y, kept = x.new_empty(x.shape), x.new_empty(lie[0], dtype=torch.float32) if keep else None
    over_rows("rms", -(-lie[0] // BLOCK), x, *lie, x.shape[-1], eps, x, own, y, kept)
    return y, kept


def _turned(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool, back: bool) -> Tensor:
    cos, sin = cos.float().contiguous(), sin.float().contiguous()
    x, lie = _lying(x)
    y = x.new_empty(x.shape)
    over_rows("turn", -(-lie[0] // BLOCK), x, *lie, x.shape[-1], int(back), int(pairs), x, cos, sin, y)
    return y


def _acted(x: Tensor, act: int, gated: bool) -> Tensor:
    x = x.contiguous()
    rows, wide = x.numel() // x.shape[-1], x.shape[-1] // (2 if gated else 1)
    y = x.new_empty(*x.shape[:-1], wide)
    over_rows("act", -(-rows // BLOCK), x, rows, wide, act, int(gated), x, y)
    return y


def _lying(x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """x with rows of neighbours, and how its rows lie: how many, the two inner axes' sizes, how far apart along all three."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    sizes, apart = [*[1] * (4 - x.ndim), *x.shape[:-1]], [*[0] * (4 - x.ndim), *x.stride()[:-1]]
    return x, (sizes[0] * sizes[1] * sizes[2], *sizes[1:], *apart)
