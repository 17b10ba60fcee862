"""Attention and the memory that makes it incremental. Tensors in, tensors out.

B batch, T new positions, S positions seen so far, H heads, G heads of keys and values, C channels of a head, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.channels_last import hear, swift
from maquette.nn.norm import RMSNorm
from maquette.nn.positions import Turn, rotate
from maquette.nn.rows import fit, softened

SHORT = 512  # up to here a CPU learns, or works in half precision, faster with two matrix products than with its fused kernel


class Memory:
    """What one layer keeps of each position, [B,G,length,C] each (keys and values), allocated once; `at` positions are filled."""

    def __init__(self, *kept: Tensor):
        self.kept, self.at = kept, 0

    def add(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Store the T newest positions and return all S = at + T.

        Raises:
            ValueError: more positions than the memory was begun for.
        """
        end, most = self.at + new[0].shape[2], self.kept[0].shape[2]
        if end > most:
            raise ValueError(f"position {end - 1} is beyond this memory's length of {most}")
        for kept, x in zip(self.kept, new, strict=True):
            kept[:, :, self.at : end] = x
        self.at = end
        return tuple(kept[:, :, :end].to(x.dtype) for kept, x in zip(self.kept, new, strict=True))

    @property
    def bytes(self) -> int:
        """Of what is kept of one position of one row."""
        return sum(kept.shape[1] * kept.shape[3] * kept.element_size() for kept in self.kept)


@dataclass(frozen=True)
class View:
    """Where a layer's positions stand, and which they may see.

    Args:
        turn: cos and sin [T,C] of the new ones.
        bias: added to the scores, [1,H,T,S].
        real: bool[B,S], or bool[B,T,S]: what is there to be seen.
        window: how far back a causal layer sees, itself included; 0 = to the beginning.
    """

    turn: Turn | None = None
    bias: Tensor | None = None
    real: Tensor | None = None
    window: int = 0


EVERYTHING = View()


def hides(window: int, seen: int) -> bool:
    """Whether a window hides any of `seen` positions; in a graph for every length, whether it may."""
    return window > 0 if torch.compiler.is_exporting() else 0 < window < seen


def visible(new: int, seen: int, causal: bool, window: int, device: torch.device) -> Tensor | None:
    """bool[T,S], what the `new` last of `seen` positions may see; None = everything."""
    if not causal or (new == 1 and not hides(window, seen)):
        return None
    mask = torch.ones(new, seen, dtype=torch.bool, device=device).tril(seen - new)
    return mask.triu(seen - new - window + 1) if hides(window, seen) else mask


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    real: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    window: int = 0,
    cap: float = 0.0,
) -> Tensor:
    """softmax(q k' / sqrt(C) + bias) v (Vaswani 2017, eq. 1): [B,H,T,C], [B,G,S,C], [B,G,S,E] -> [B,H,T,E].

    Causal: the T queries are the newest of the S positions, and none sees a later one, nor one `window` or more before it. None
    sees a position that `real`, bool[B,S] or bool[B,T,S], denies; one that sees nothing at all gets no number. `bias` [B,H,T,S]
    may have axes of size 1; `scale` stands in the place of 1 / sqrt(C); scores s become cap tanh(s / cap).
    """
    new, seen, scale = q.shape[2], k.shape[2], None if scale is None else float(scale)
    if new > 1 and real is None and bias is None and not cap and q.shape[-1] == v.shape[-1] and swift(q, k, v):
        near = 0 if not causal else window if 0 < window < seen else seen
        out = hear(q, k, v, None, near, q.shape[-1] ** -0.5 if scale is None else scale)
        return out.unflatten(2, (q.shape[1], -1)).transpose(1, 2)
    mask = visible(new, seen, causal, window, q.device)
    square = mask is not None and new == seen and real is None and bias is None and not hides(window, seen)
    if real is not None:
        real = real[:, None, None] if real.dim() == 2 else real[:, None]
        mask = real if mask is None else mask & real
    if bias is not None:
        mask = bias.to(q.dtype) if mask is None else bias.to(q.dtype).masked_fill(~mask, -torch.inf)
    plain = q.device.type == "cpu" and new > 1 and seen <= SHORT and (q.dtype != torch.float32 or torch.is_grad_enabled())
    if plain or cap:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        if not cap and bias is None and q.dtype == k.dtype == v.dtype and fit(q, 1):
            return softened(q @ k.mT, mask, q.shape[-1] ** -0.5 if scale is None else scale) @ v
        scores = (q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)) @ k.mT
        if cap:
            scores = cap * (scores / cap).tanh()
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    shared = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, None if square else mask, is_causal=square, scale=scale, enable_gqa=shared)


class Attention(nn.Module):
    """Multi-head attention; fewer heads of keys and values than of queries make it grouped (Ainslie 2023).

    Args:
        width: channels D in and out.
        heads: of queries H.
        causal: none sees a later position.
        groups: heads of keys and values G; 0 = H, ordinary attention; 1 = multi-query.
        size: channels C of a head; 0 = D / H.
        norm: of queries and keys (Henry 2020), C -> module; None = none.
        bias: of queries, keys and values.
        bias_out: of what comes out.
        scale: in the place of 1 / sqrt(C).
        cap: of the scores (Gemma 2); 0 = none.

    Raises:
        ValueError: heads that do not divide.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool = True,
        *,
        groups: int = 0,
        size: int = 0,
        norm: Callable[[int], nn.Module] | None = None,
        bias: bool = False,
        bias_out: bool = False,
        scale: float | None = None,
        cap: float = 0.0,
    ):
        super().__init__()
        self.heads, self.groups, self.size, self.causal = heads, groups or heads, size or width // heads, causal
        if (not size and width % heads) or heads % self.groups or self.size % 2:
            near = max(2, round(width / heads / 2) * 2) * heads
            raise ValueError(f"width {width} is not {heads} heads of even size in {self.groups} groups; nearest width {near}")
        self.scale, self.cap = scale, cap
        self.qkv = nn.Linear(width, (heads + 2 * self.groups) * self.size, bias)
        self.out = nn.Linear(heads * self.size, width, bias_out)
        self.norm_q = norm(self.size) if norm else None
        self.norm_k = norm(self.size) if norm else None

    @property
    def turned(self) -> int:
        """Channels of a head that turn with the position."""
        return self.size

    def memory(self, batch: int, length: int, like: Tensor) -> Memory:
        """Room for so many positions."""
        return Memory(*(like.new_zeros(batch, self.groups, length, self.size) for _ in "kv"))

    def forward(self, x: Tensor, view: View = EVERYTHING, memory: Memory | None = None) -> Tensor:
        """[B,T,D] -> [B,T,D]; with a memory, x holds the newest T positions only."""
        each = self.qkv(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
        q, k, v = each.split([self.heads, self.groups, self.groups], 1)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        if view.turn is not None:
            q, k = rotate(q, view.turn), rotate(k, view.turn)
        if memory is not None:
            k, v = memory.add(k, v)
        out = attend(q, k, v, self.causal, view.real, view.bias, self.scale, view.window, self.cap)
        return self.out(out.transpose(1, 2).flatten(2))


class Latent(nn.Module):
    """Multi-head latent attention: keys and values of all heads out of one small vector per position (DeepSeek-V2, sec. 2.1).

    What is remembered of a position is that vector and one key that turns, shared by all heads. Decoding never makes the keys
    and values of past positions: their matrices move over to the queries and to what comes out (sec. 2.1.2).

    Args:
        kept: channels of the vector.
        turned: channels of queries and keys that turn with the position.
        still: channels of a head that do not.
        value: channels of a head's values; 0 = `still`.
        query: channels that queries are squeezed through; 0 = they are not.
        norm: of the squeezed vectors, channels -> module.
        scale: in the place of 1 / sqrt(still + turned).
    """

    whole = ("kv",)  # its matrix moves over to the queries

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool = True,
        *,
        kept: int = 0,
        turned: int = 0,
        still: int = 0,
        value: int = 0,
        query: int = 0,
        norm: Callable[[int], nn.Module] = RMSNorm,
        scale: float | None = None,
        bias: bool = False,
    ):
        super().__init__()
        size = width // heads
        kept, turned, still = kept or 2 * size, turned or size // 2, still or size
        value = value or still
        self.heads, self.causal, self.kept, self.turned, self.still, self.value = heads, causal, kept, turned, still, value
        self.scale = (still + turned) ** -0.5 if scale is None else scale
        self.q_down = nn.Linear(width, query, bias) if query else None
        self.q_norm = norm(query) if query else None
        self.q = nn.Linear(query or width, heads * (still + turned), bias=False)
        self.kv_down = nn.Linear(width, kept + turned, bias)
        self.kv_norm = norm(kept)
        self.kv = nn.Linear(kept, heads * (still + value), bias=False)
        self.out = nn.Linear(heads * value, width, bias)

    def memory(self, batch: int, length: int, like: Tensor) -> Memory:
        """Room for so many positions."""
        return Memory(*(like.new_zeros(batch, 1, length, size) for size in (self.kept, self.turned)))

    def forward(self, x: Tensor, view: View = EVERYTHING, memory: Memory | None = None) -> Tensor:
        """[B,T,D] -> [B,T,D]; with a memory, x holds the newest T positions only."""
        asked = x if self.q_down is None or self.q_norm is None else self.q_norm(self.q_down(x))
        q, q_turned = self.q(asked).unflatten(-1, (self.heads, -1)).transpose(1, 2).split([self.still, self.turned], -1)
        c, k_turned = self.kv_down(x)[:, None].split([self.kept, self.turned], -1)
        c = self.kv_norm(c)
        if view.turn is not None:
            q_turned, k_turned = rotate(q_turned, view.turn), rotate(k_turned, view.turn)
        if memory is None:
            k, v = self.kv(c[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2).split([self.still, self.value], -1)
            k = torch.cat([k, k_turned.expand(-1, self.heads, -1, -1)], -1)
            out = attend(torch.cat([q, q_turned], -1), k, v, self.causal, view.real, view.bias, self.scale, view.window)
        else:
            to_k, to_v = self.kv.weight.view(self.heads, -1, self.kept).split([self.still, self.value], 1)
            c, k_turned = memory.add(c, k_turned)
            q, k = torch.cat([q @ to_k.to(q.dtype), q_turned], -1), torch.cat([c, k_turned], -1)
            out = attend(q, k, c, self.causal, view.real, view.bias, self.scale, view.window) @ to_v.mT.to(q.dtype)
        return self.out(out.transpose(1, 2).flatten(2))


class Cross(nn.Module):
    """Attention to tokens that are told: queries of x, keys and values of what is told.

    Args:
        told: channels of what is told; 0 = D.
    """

    def __init__(self, width: int, heads: int, *, told: int = 0, size: int = 0, bias: bool = False, scale: float | None = None):
        super().__init__()
        self.heads, self.size, self.scale = heads, size or width // heads, scale
        self.q = nn.Linear(width, heads * self.size, bias)
        self.kv = nn.Linear(told or width, 2 * heads * self.size, bias)
        self.out = nn.Linear(heads * self.size, width, bias)

    def hear(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B,H,L,C] of what is told [B,L,told]."""
        k, v = self.kv(tokens).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2).chunk(2, 1)
        return k, v

    def forward(self, x: Tensor, heard: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """[B,T,D], what `hear` gave, bool[B,L] -> [B,T,D]."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (part.to(q.dtype) for part in heard)
        return self.out(attend(q, k, v, False, mask, scale=self.scale).transpose(1, 2).flatten(2))
