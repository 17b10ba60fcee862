"""Normalisation layers. Tensors in, tensors out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.rows import added, fit, rms_norm, steered


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last axis (Zhang & Sennrich 2019, eq. 4), computed in float32.

    Args:
        width: size of the last axis.
        eps: added to the mean square.
        gain: learn a factor per channel; without it the layer has no parameters.
        one: the factor is 1 + weight, and multiplied in float32 (Gemma).
    """

    def __init__(self, width: int, eps: float = 1e-6, gain: bool = True, one: bool = False):
        super().__init__()
        self.eps, self.one = eps, one
        self.weight = nn.Parameter(torch.zeros(width) if one else torch.ones(width)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D], in x's precision."""
        if fit(x):
            return rms_norm(x, 1 + self.weight if self.one and self.weight is not None else self.weight, self.eps)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        if self.weight is None:
            return wide.to(x.dtype)
        return (wide * (1 + self.weight.float())).to(x.dtype) if self.one else wide.to(x.dtype) * self.weight.to(x.dtype)


def adaptive(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm of x [B,N,D], scaled by 1 + scale and shifted, [B,D] both (adaLN; Peebles 2023, sec. 3.2)."""
    if fit(x) and x.ndim == 3:
        return steered(x, shift, scale, eps)
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale[:, None])


def gated(x: Tensor, gate: Tensor, h: Tensor) -> Tensor:
    """x and a branch h [B,N,D] through a condition's gate [B,D], in one pass."""
    if fit(x) and x.ndim == 3 and h.dtype in (x.dtype, torch.bfloat16):
        return added(x, gate, h)
    return torch.addcmul(x, gate[:, None], h)
