"""What a U-Net spends its time on, made for images that lie channels last in memory, as a CPU's convolutions want them.

Each function equals the textbook's in exact arithmetic and passes over memory less often. Knows layers, not networks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def norm_silu(parts: tuple[Tensor, ...], norm: nn.GroupNorm, shift: Tensor | None = None, silu: bool = True) -> Tensor:
    """SiLU(GroupNorm(cat(parts, 1) + shift)), [B,C_i,H,W] each and [B,C] -> [B,C,H,W].

    Compiled: a group's moments follow from its channels' sums, and the rest is one factor and one term per row and channel. So
    neither the concatenation nor the shifted image is made; images are read once for the sums and once for the result, and as
    often backwards. Moments in float32, mean of squares less square of mean, as in PyTorch's own kernel for channels last.
    """
    if not torch.compiler.is_compiling():  # unfused, the passes would cost more than PyTorch's own
        x = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        y = norm(x if shift is None else x + shift[:, :, None, None].to(x.dtype))
        return F.silu(y) if silu else y
    total, squares = (torch.cat(each, 1) for each in zip(*map(_sums, parts), strict=True))
    places = parts[0].shape[2] * parts[0].shape[3]
    if shift is not None:
        shift = shift.float()
        squares = squares + shift * (2 * total + places * shift)
        total = total + places * shift
    each = total.shape[1] // norm.num_groups
    group = torch.arange(total.shape[1], device=total.device) // each
    average = (group[:, None] == group) / (places * each)  # as a product, so that it is made once per row and not per pixel
    mean, square = (total @ average, squares @ average)
    scale = torch.rsqrt((square - mean * mean).clamp(min=0) + norm.eps) * norm.weight.float()
    offset = norm.bias.float() + scale * (-mean if shift is None else shift - mean)
    ends = [part.shape[1] for part in parts]
    done = [
        _Affine.apply(part, a, b, silu) for part, a, b in zip(parts, scale.split(ends, 1), offset.split(ends, 1), strict=True)
    ]
    return done[0] if len(done) == 1 else torch.cat(done, 1)


def _sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of each channel's values and of their squares, [B,C,H,W] -> float32 [B,C] twice."""
    wide = x.float()
    return wide.sum((2, 3)), wide.square().sum((2, 3))


class _Affine(torch.autograd.Function):
    """SiLU(scale * x + offset), or without SiLU, in x's precision: it keeps SiLU's slope, not the float32 steps on the way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, silu: bool) -> Tensor:
        y = x.float() * scale[:, :, None, None] + offset[:, :, None, None]
        if not silu:
            ctx.save_for_backward(x, scale)
            return y.to(x.dtype)
        gate = y.sigmoid()
        ctx.save_for_backward(x, scale, (gate * (1 + y * (1 - gate))).to(x.dtype))
        return (y * gate).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        x, scale, *slope = ctx.saved_tensors
        up = grad.float() * slope[0].float() if slope else grad.float()
        return (up * scale[:, :, None, None]).to(x.dtype), (up * x.float()).sum((2, 3)), up.sum((2, 3)), None


def up_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(nearest neighbours at twice the resolution), [B,C,H,W] -> [B,C',2H,2W], for a 3 x 3 convolution padded by 1.

    Equal neighbours meet summed weights: a transposed 4 x 4 convolution of stride 2, with 4/9 of the products.
    """
    weight = conv.weight.flip(2, 3).transpose(0, 1)
    weight = F.pad(weight, (0, 1)) + F.pad(weight, (1, 0))
    weight = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
    return F.conv_transpose2d(x, weight, conv.bias, stride=2, padding=1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q' k / sqrt(C)) v of many small heads, [B,H,C,T] each -> [B,H,C,T]; every place sees every place.

    On a CPU with scores of one row of the batch at a time, which stay in its cache; backwards they are computed again.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
    ones = torch.ones_like(v[:, :, :1])
    sums = _weigh(q * (1 / math.sqrt(q.shape[2])), k, torch.cat([v, ones], 2)).float()
    return (sums[:, :, :-1] / sums[:, :, -1:]).to(v.dtype)


def _weights(q: Tensor, k: Tensor, into: Tensor) -> Tensor:
    """exp(q' k) of one row, [H,C,T] twice -> [H,T,T], up to a factor per query that makes it finite."""
    torch.bmm(q.mT, k, out=into)
    longest = q.float().square().sum(1).amax() * k.float().square().sum(1).amax()
    if not longest < 60**2:  # no score is above this product of lengths; below it, exp needs no maximum
        into -= into.amax(-1, keepdim=True)
    return into.exp_()


@torch.library.custom_op("maquette::weigh", mutates_args=())
def _weigh(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """v exp(q' k)', [B,H,C,T] twice and [B,H,D,T] -> [B,H,D,T]: sums of values by weights that are not yet shares."""
    out = v.new_empty(v.shape)
    room = q.new_empty(q.shape[1], q.shape[3], q.shape[3])
    for row in range(len(q)):
        torch.bmm(v[row], _weights(q[row], k[row], room).mT, out=out[row])
    return out


@torch.library.custom_op("maquette::weigh_backward", mutates_args=())
def _weigh_backward(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    room, slope = (q.new_empty(q.shape[1], q.shape[3], q.shape[3]) for _ in range(2))
    for row in range(len(q)):
        weights, up = _weights(q[row], k[row], room), grad[row].contiguous()
        torch.bmm(up, weights, out=dv[row])
        torch.bmm(up.mT, v[row], out=slope)
        slope *= weights
        torch.bmm(k[row], slope.mT, out=dq[row])
        torch.bmm(q[row], slope, out=dk[row])
    return dq, dk, dv


@_weigh.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return v.new_empty(v.shape)


@_weigh_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _back(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _weigh_backward(*ctx.saved_tensors, grad)


_weigh.register_autograd(_back, setup_context=_keep)
