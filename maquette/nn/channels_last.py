"""What a U-Net spends its time on, made for images that lie channels last in memory, as a CPU's convolutions want them.

Each function equals the textbook's in exact arithmetic and passes over memory less often. Knows layers, not networks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.native import built, learns, native, over_rows


def norm_silu(x: Tensor, norm: nn.GroupNorm, shift: Tensor | None = None, silu: bool = True) -> Tensor:
    """SiLU(GroupNorm(x + shift)), [B,C,H,W] and [B,C] -> [B,C,H,W].

    Native on a CPU: one pass over a row for its channels' sums, one for the result. A group's moments follow from the sums, as
    mean of squares less square of mean, like those of PyTorch's own kernel for channels last. Kept for the way back: x and
    numbers per channel.
    """
    if native(x) and x.shape[1] % 16 == 0:
        shift = None if shift is None else shift.float().contiguous()
        return _norm_silu(x, shift, norm.weight.float(), norm.bias.float(), norm.num_groups, norm.eps, silu)[0]
    y = norm(x if shift is None else x + shift[:, :, None, None].to(x.dtype))
    return F.silu(y) if silu else y


def layout(x: Tensor) -> Tensor:
    """x as it should lie: channels last where norms are native; PyTorch's own are slow backwards on a CPU (six times)."""
    return x.contiguous(memory_format=torch.channels_last if native(x) or x.device.type != "cpu" else torch.contiguous_format)


def lay(module: nn.Module) -> None:
    """Put convolutions' weights where `layout` puts their inputs; else every call of a convolution copies them."""
    for p in module.parameters() if built() else ():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)


MOST = 1 << 26  # scores of a row
FEW = 256  # places of a batch
SHORT = (
    512  # positions seen: up to here a CPU learns, or works in half precision, faster with two products than with a fused kernel
)
Kept = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # the result, sums, scale and offset [B,C], stats [B,2,G]


@torch.library.custom_op("maquette::norm_silu", mutates_args=())
def _norm_silu(x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Kept:
    x = x.contiguous(memory_format=torch.channels_last)
    rows, channels, places = len(x), x.shape[1], x.shape[2] * x.shape[3]
    y, (sums, scale, offset) = torch.empty_like(x), (x.new_empty(rows, channels, dtype=torch.float32) for _ in range(3))
    stats = x.new_empty(rows, 2, groups, dtype=torch.float32)
    given = (x, shift, weight, bias, y, sums, scale, offset, stats)
    over_rows("norm", rows, x, places, channels, groups, eps, int(silu), *given)
    return y, sums, scale, offset, stats


@torch.library.custom_op("maquette::norm_silu_backward", mutates_args=())
def _norm_silu_backward(
    x: Tensor, shift: Tensor | None, weight: Tensor, kept: list[Tensor], grad: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, grad = (each.contiguous(memory_format=torch.channels_last) for each in (x, grad))
    rows, channels, places = len(x), x.shape[1], x.shape[2] * x.shape[3]
    dx, (dshift, dweight, dbias) = torch.empty_like(x), (torch.empty_like(kept[0]) for _ in range(3))
    given = (x, grad, shift, weight, *kept, dx, None if shift is None else dshift, dweight, dbias)
    over_rows("norm_back", rows, x, places, channels, kept[-1].shape[-1], int(silu), *given)
    return dx, dshift, dweight.sum(0), dbias.sum(0)


@_norm_silu.register_fake
def _(x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Kept:
    per_channel = [x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(3)]
    y = torch.empty_like(x, memory_format=torch.channels_last)
    stats = x.new_empty(len(x), 2, groups, dtype=torch.float32)
    return y, per_channel[0], per_channel[1], per_channel[2], stats


@_norm_silu_backward.register_fake
def _(
    x: Tensor, shift: Tensor | None, weight: Tensor, kept: list[Tensor], grad: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    return dx, torch.empty_like(kept[0]), torch.empty_like(weight), torch.empty_like(weight)


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: Kept) -> None:
    x, shift, weight, _, _, _, ctx.silu = inputs
    ctx.save_for_backward(x, shift, weight, *output[1:])


def _norm_back(ctx: Any, grad: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:
    x, shift, weight, *kept = ctx.saved_tensors
    dx, dshift, dweight, dbias = _norm_silu_backward(x, shift, weight, kept, grad.to(x.dtype), ctx.silu)
    return dx, None if shift is None else dshift, dweight, dbias, None, None, None


_norm_silu.register_autograd(_norm_back, setup_context=_keep_norm)


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution as a matrix: [B,C,H,W] -> [B,C',H,W], or of places, [B,T,C] -> [B,T,C'].

    One thread of a CPU is slow at 1 x 1 convolutions of its own, and leaves channels first in memory.
    """

    def __init__(self, inside: int, outside: int):
        super().__init__(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(1)
        if x.ndim == 3:
            return F.linear(x, weight, self.bias)
        return F.linear(x.permute(0, 2, 3, 1), weight, self.bias).permute(0, 3, 1, 2)


def up_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(nearest neighbours at twice the resolution), [B,C,H,W] -> [B,C',2H,2W], for a 3 x 3 convolution padded by 1.

    Equal neighbours meet summed weights: a transposed 4 x 4 convolution of stride 2, with 4/9 of the products. Where places are
    few, summing weights costs more than it saves.
    """
    if len(x) * x.shape[2] * x.shape[3] < FEW:
        return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    weight = conv.weight.flip(2, 3).transpose(0, 1)
    weight = F.pad(weight, (0, 1)) + F.pad(weight, (1, 0))
    weight = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
    return F.conv_transpose2d(x, weight, conv.bias, stride=2, padding=1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q' k / sqrt(C)) v of many small heads, [B,H,C,T] each -> [B,H,C,T]; every place sees every place.

    On a CPU with scores of one row of the batch at a time, which stay in its cache; backwards they are computed again. Of very
    large images they would fill memory, and are never made whole.
    """
    if q.device.type != "cpu" or q.shape[1] * q.shape[3] ** 2 > MOST:
        return F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
    ones = torch.ones_like(v[:, :, :1])
    sums = _weigh(q * (1 / math.sqrt(q.shape[2])), k, torch.cat([v, ones], 2))
    sums = sums.to(torch.promote_types(sums.dtype, torch.float32))
    return (sums[:, :, :-1] / sums[:, :, -1:]).to(v.dtype)


def heed(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention of places to what they see where the mask bool[B,S] is True (to all alike where it is not at all): [B,T,D],
    [B,S,D] twice -> [B,T,D] (Vaswani 2017, sec. 3.2).

    Native on a CPU where no gradient is asked for; where one is, in float32: there PyTorch's fused kernel is exact, and quicker
    than in half precision, whose way back takes most of the time.
    """
    bias = None if mask is None else torch.where(mask, 0.0, max(-1e30, torch.finfo(q.dtype).min))
    if native(q) and len(q) == len(k) == len(v) and q.dtype == k.dtype == v.dtype and not learns(q, k, v):
        return _heed(q, k, v, heads, None if bias is None else bias.expand(len(q), -1))
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    wide = torch.promote_types(q.dtype, torch.float32) if q.device.type == "cpu" else q.dtype
    bias = None if bias is None else bias.to(wide)[:, None, None]
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(q.to(wide), k.to(wide), v.to(wide), bias)
    return out.to(v.dtype).transpose(1, 2).flatten(2)


def geglu(x: Tensor) -> Tensor:
    """The first half of the channels times GELU of the second: [..., 2D] -> [..., D]. Native where no gradient is asked for."""
    if native(x) and not learns(x) and x.shape[-1] % 32 == 0:
        return _geglu(x)
    value, gate = x.chunk(2, -1)
    return value * F.gelu(gate)


def hear(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, near: int, scale: float) -> Tensor:
    """The same of heads apart, natively: [B,H,T,C], [B,G,S,C] twice -> [B,T,H C].

    Args:
        bias: added to the scores of each key, [B,S].
        near: queries are the newest places, and see so many of those not after them; 0 = all.
    """
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    bias = None if bias is None else bias.float().contiguous()
    batch, heads, places, size = q.shape
    out = q.new_empty(batch, places, heads * size)
    apart = torch.tensor([x.stride(axis) for x in (q, k, v) for axis in (0, 2, 1)])
    sizes = (places, k.shape[2], heads, k.shape[1], size, float(scale), near)
    over_rows("heed", batch * heads, q, *sizes, apart, q, k, v, bias, out)
    return out


def swift(*inputs: Tensor) -> bool:
    """Whether queries, keys and values [B,H,T,C] are heard natively: alike, with something to hear, where no gradient is asked
    for and no graph is compiled."""
    if torch.compiler.is_compiling():  # asked first: what is asked of sizes below, a graph would be of these sizes alone
        return False
    q, k, _ = inputs
    alike = all(x.dtype == q.dtype and len(x) == len(q) for x in inputs) and k.shape[2] > 0
    return alike and native(q) and not learns(*inputs)


@torch.library.custom_op("maquette::heed", mutates_args=())
def _heed(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    out = hear(q, k, v, bias, 0, q.shape[-1] ** -0.5)
    return out


@_heed.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("maquette::geglu", mutates_args=())
def _geglu(x: Tensor) -> Tensor:
    x = x.contiguous()
    width = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], width)
    over_rows("geglu", x.numel() // x.shape[-1], x, width, x, out)
    return out


@_geglu.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


@torch.library.custom_op("maquette::weigh", mutates_args=())
def _weigh(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """v exp(q' k)', [B,H,C,T] twice and [B,H,D,T] -> [B,H,D,T]: sums of values by weights that are not yet shares."""
    out = v.new_empty(v.shape)
    room = q.new_empty(q.shape[1], q.shape[3], q.shape[3])
    for row, small in enumerate(_small(q, k)):
        torch.bmm(v[row], _weights(q[row], k[row], small, room).mT, out=out[row])
    return out


@torch.library.custom_op("maquette::weigh_backward", mutates_args=())
def _weigh_backward(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    room, slope = (q.new_empty(q.shape[1], q.shape[3], q.shape[3]) for _ in range(2))
    for row, small in enumerate(_small(q, k)):
        weights, up = _weights(q[row], k[row], small, room), grad[row].contiguous()
        torch.bmm(up, weights, out=dv[row])
        torch.bmm(up.mT, v[row], out=slope)
        if native(slope) and slope.numel() % 16 == 0:
            over_rows("product", slope.numel() // 16, slope, slope, weights)
        else:
            slope *= weights
        torch.bmm(k[row], slope.mT, out=dq[row])
        torch.bmm(q[row], slope, out=dk[row])
    return dq, dk, dv


def _small(q: Tensor, k: Tensor) -> list[bool]:
    """For each row: no score can be so large that exp overflows without taking the maximum off first (|q k| <= |q| |k|)."""
    long_q, long_k = (x.float().square().sum(2).flatten(1).amax(1) for x in (q, k))
    return (long_q * long_k < 60.0**2).tolist()


def _weights(q: Tensor, k: Tensor, small: bool, into: Tensor) -> Tensor:
    """exp(q' k) of one row, [H,C,T] twice -> [H,T,T]; up to a factor per query, if not small."""
    torch.bmm(q.mT, k, out=into)
    if not small:
        into -= into.amax(-1, keepdim=True)
    if not native(into) or into.numel() % 16:
        return into.exp_()
    over_rows("exponential", into.numel() // 16, into, into)
    return into


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
