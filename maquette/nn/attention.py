"""Self-attention and the memory that makes it incremental. Tensors in, tensors out.

B batch, T new positions, S positions seen so far, H heads, G heads of keys and values, C channels of a head, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.norm import RMSNorm
from maquette.nn.rope import Turn, rotate

SHORT = 512  # up to here a CPU learns, or works in half precision, faster with two matrix products than with its fused kernel


class Memory:
    """Keys and values of one layer, [B,G,length,C] each, allocated once; `at` positions are filled."""

    def __init__(self, keys: Tensor, values: Tensor):
        self.keys, self.values, self.at = keys, values, 0

    def add(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the T newest positions and return all S = at + T.

        Raises:
            ValueError: more positions than the memory was begun for.
        """
        end = self.at + k.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"position {end - 1} is beyond this memory's length of {self.keys.shape[2]}")
        self.keys[:, :, self.at : end], self.values[:, :, self.at : end] = k, v
        self.at = end
        return self.keys[:, :, :end].to(k.dtype), self.values[:, :, :end].to(v.dtype)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    real: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k' / sqrt(C) + bias) v (Vaswani 2017, eq. 1): [B,H,T,C], [B,G,S,C], [B,G,S,C] -> [B,H,T,C].

    Causal: the T queries are the newest of the S positions, and none sees a later one. None sees a position that `real`,
    bool[B,S], denies; one that sees nothing at all gets no number. `bias` [B,H,T,S] may have axes of size 1; `scale` stands in
    the place of 1 / sqrt(C).
    """
    new, seen = q.shape[2], k.shape[2]
    mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new) if causal and new > 1 else None
    square = mask is not None and new == seen and real is None and bias is None
    if real is not None:
        mask = real[:, None, None] if mask is None else mask & real[:, None, None]
    if bias is not None:
        mask = bias.to(q.dtype) if mask is None else bias.to(q.dtype).masked_fill(~mask, -torch.inf)
    plain = q.dtype != torch.float32 or torch.is_grad_enabled()
    if q.device.type == "cpu" and new > 1 and seen <= SHORT and plain:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = (q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)) @ k.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    shared = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, None if square else mask, is_causal=square, scale=scale, enable_gqa=shared)


class Attention(nn.Module):
    """Multi-head attention with rotary positions; fewer heads of keys and values than of queries make it grouped.

    Args:
        groups: heads of keys and values (Ainslie 2023); heads = ordinary attention, 1 = multi-query.
        qk_norm: normalise queries and keys (Henry 2020), without gains.
    """

    def __init__(self, width: int, heads: int, groups: int, causal: bool = True, qk_norm: bool = False):
        super().__init__()
        self.heads, self.groups, self.size, self.causal = heads, groups, width // heads, causal
        self.qkv = nn.Linear(width, (heads + 2 * groups) * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm = RMSNorm(self.size, gain=False) if qk_norm else None

    def forward(self, x: Tensor, turn: Turn | None = None, memory: Memory | None = None) -> Tensor:
        """[B,T,D] -> [B,T,D]; with a memory, x holds the newest T positions only."""
        batch, new, width = x.shape
        each = self.qkv(x).view(batch, new, -1, self.size).transpose(1, 2)
        q, k, v = each.split([self.heads, self.groups, self.groups], 1)
        if self.norm is not None:
            q, k = self.norm(q), self.norm(k)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        if memory is not None:
            k, v = memory.add(k, v)
        return self.out(attend(q, k, v, self.causal).transpose(1, 2).reshape(batch, new, width))
