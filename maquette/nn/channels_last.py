"""What a U-Net spends its time on, made for images that lie channels last in memory, as a CPU's convolutions want them.

Each function equals the textbook's in exact arithmetic and passes over memory less often. Knows layers, not networks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def norm_silu(parts: tuple[Tensor, ...], norm: nn.GroupNorm, shift: Tensor | None = None, silu: bool = True) -> Tensor:
    """SiLU(GroupNorm(cat(parts, 1) + shift)), [B,C_i,H,W] each and [B,C] -> [B,C,H,W].

    A group's moments follow from its channels' sums, and the rest is one factor and one term per row and channel. So neither the
    concatenation nor the shifted image is ever made: images are read once for the sums and once for the result, and as often
    backwards. Moments in float32, as mean of squares less square of mean (PyTorch does so for channels-last images, too).
    """
    total, squares = (torch.cat(each, 1) for each in zip(*map(_sums, parts), strict=True))
    places = parts[0].shape[2] * parts[0].shape[3]
    if shift is not None:
        shift = shift.float()
        squares = squares + shift * (2 * total + places * shift)
        total = total + places * shift
    batch, channels = total.shape
    each = channels // norm.num_groups
    mean, square = (s.view(batch, -1, each).sum(2) / (places * each) for s in (total, squares))
    scale = torch.rsqrt((square - mean * mean).clamp(min=0) + norm.eps).repeat_interleave(each, 1) * norm.weight.float()
    mean = mean.repeat_interleave(each, 1)
    offset = norm.bias.float() + scale * (-mean if shift is None else shift - mean)
    done, at = [], 0
    for part in parts:
        to = at + part.shape[1]
        y = part.float() * scale[:, at:to, None, None] + offset[:, at:to, None, None]
        done.append((F.silu(y) if silu else y).to(part.dtype))
        at = to
    return done[0] if len(done) == 1 else torch.cat(done, 1)


def _sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of each channel's values and of their squares, [B,C,H,W] -> float32 [B,C] twice."""
    wide = x.float()
    return wide.sum((2, 3)), wide.square().sum((2, 3))


def up_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(nearest neighbours at twice the resolution), [B,C,H,W] -> [B,C',2H,2W], for a 3 x 3 convolution padded by 1.

    Equal neighbours meet summed weights: a transposed 4 x 4 convolution of stride 2, with 4/9 of the products.
    """
    weight = conv.weight.flip(2, 3).transpose(0, 1)
    weight = F.pad(weight, (0, 1)) + F.pad(weight, (1, 0))
    weight = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
    return F.conv_transpose2d(x, weight, conv.bias, stride=2, padding=1)


def attend(qkv: Tensor) -> Tensor:
    """softmax(q k' / sqrt(C)) v of queries, keys and values [B,T,3,H,C] -> [B,T,H,C]; every place sees every place.

    On a CPU one row of the batch at a time: its scores then stay in the cache. Backwards, they are computed again.
    """
    if qkv.device.type == "cpu":
        return _attend(qkv)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class _Row:
    """Room for what attention of one row needs: scores, probabilities [H,T,T] and one more of their kind."""

    def __init__(self, like: Tensor):
        _, places, _, heads, channels = like.shape
        self.scale = 1 / math.sqrt(channels)
        self.scores, self.shares, self.spare = (like.new_empty(heads, places, places) for _ in range(3))

    def look(self, q: Tensor, k: Tensor) -> Tensor:
        """Probabilities [H,T,T]; queries come scaled."""
        torch.bmm(q, k.mT, out=self.scores)
        return torch.softmax(self.scores, -1, out=self.shares)


def _heads(qkv: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """[B,T,3,H,C] -> scaled queries, keys and values, [B,H,T,C] each."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return (q * scale).contiguous(), k.contiguous(), v.contiguous()


@torch.library.custom_op("maquette::attend", mutates_args=())
def _attend(qkv: Tensor) -> Tensor:
    row, out = _Row(qkv), qkv.new_empty(qkv[:, :, 0].permute(0, 2, 1, 3).shape)
    for q, k, v, to in zip(*_heads(qkv, row.scale), out, strict=True):
        torch.bmm(row.look(q, k), v, out=to)
    return out.transpose(1, 2).contiguous()


@torch.library.custom_op("maquette::attend_backward", mutates_args=())
def _attend_backward(qkv: Tensor, grad: Tensor) -> Tensor:
    row, back = _Row(qkv), torch.empty_like(qkv.permute(2, 0, 3, 1, 4), memory_format=torch.contiguous_format)
    grad = grad.transpose(1, 2).contiguous()
    for q, k, v, up, dq, dk, dv in zip(*_heads(qkv, row.scale), grad, *back, strict=True):
        shares = row.look(q, k)
        torch.bmm(shares.mT, up, out=dv)
        torch.bmm(up, v.mT, out=row.spare)
        slope = torch._softmax_backward_data(row.spare, shares, -1, shares.dtype, grad_input=row.scores)
        torch.bmm(slope, k, out=dq)
        torch.bmm(slope.mT, q, out=dk)
    back[0] *= row.scale
    return back.permute(1, 3, 0, 2, 4).contiguous()


@_attend.register_fake
def _(qkv: Tensor) -> Tensor:
    return torch.empty_like(qkv[:, :, 0], memory_format=torch.contiguous_format)


@_attend_backward.register_fake
def _(qkv: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _back(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
    (qkv,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return _attend_backward(qkv, grad.to(qkv.dtype))


_attend.register_autograd(_back, setup_context=_keep)
