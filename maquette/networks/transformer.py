"""One transformer over symbols, causal or not: its switches make the published families.

Knows symbols, positions, and what it may be told: a vector, or tokens before the first symbol. Not what any of them mean, nor
whether row t is read as a guess of symbol t (bidirectional) or of the one after it (causal).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maquette.contracts import Condition, Network, device_of
from maquette.nn.attention import Attention, Memory
from maquette.nn.embed import GridPlaces
from maquette.nn.mlp import SwiGLU
from maquette.nn.norm import RMSNorm
from maquette.nn.rope import Turn, turns


@dataclass(frozen=True)
class Style:
    """How a transformer departs from Llama's (Touvron 2023): pre-norm, RoPE, RMSNorm, SwiGLU, no biases.

    Args:
        groups: heads of keys and values; 0 = as many as heads.
        hidden: channels within the feed-forward layers; 0 = 8/3 of the width, rounded up to a multiple of 32.
        tied: score symbols with the matrix that embeds them.
        qk_norm: normalise queries and keys.
        learned: positions are learned vectors, this many, or the sums of one for each axis of a grid; 0 = rotary positions, any
            number.
        theta: base of the rotary frequencies.
        eps: of every normalisation.
        smear: add the embedding of the symbol before, scaled per channel, causal only (the token shift of RWKV, Peng 2023,
            on the embeddings alone). Copying what followed an earlier occurrence then takes one layer of attention, not two.
    """

    groups: int = 0
    hidden: int = 0
    tied: bool = False
    qk_norm: bool = False
    learned: int | tuple[int, ...] = 0
    theta: float = 10000.0
    eps: float = 1e-6
    smear: bool = False


@dataclass(frozen=True)
class Prefix:
    """What is told, and stands before the first symbol: each sees those before it, and all that follows sees them all.

    Args:
        length: L, of every row.
        vocab: symbols that may be told; 0 = none are, but vectors of the network's width.
        scored: told symbols are scored as well (`Transformer.read`).
    """

    length: int
    vocab: int = 0
    scored: bool = False


class Heard(nn.Module):
    """Told symbols int64[B,L], and which are a text's bool[B,L], by tables of their own -> [B,L,D]; or vectors as they are.

    Behind a text's end each place has a filling vector of its own (Ramesh 2021, sec. 2.2).

    Raises:
        ValueError: they were not told.
    """

    def __init__(self, prefix: Prefix, width: int):
        super().__init__()
        self.length, self.width, self.head = prefix.length, width, None
        self.embed = nn.Embedding(prefix.vocab, width) if prefix.vocab else None
        if self.embed is not None:
            self.places, self.blanks = nn.Embedding(prefix.length, width), nn.Embedding(prefix.length, width)
            self.head = nn.Linear(width, prefix.vocab, bias=False) if prefix.scored else None

    def forward(self, cond: Condition | None) -> Tensor:
        tokens = cond.tokens if cond is not None else None
        vectors = tokens is not None and tokens.is_floating_point()
        if cond is None or tokens is None or tuple(tokens.shape[1:]) != self.wanted or vectors != (self.embed is None):
            told = "nothing" if tokens is None else f"{str(tokens.dtype).removeprefix('torch.')}{[*tokens.shape]}"
            what = "vectors" if self.embed is None else "symbols"
            raise ValueError(f"this network must be told {what} {[*self.wanted]} a row, as cond.tokens, and is told {told}")
        if self.embed is None:
            return tokens
        h = self.embed(tokens)
        if cond.mask is not None:
            h = torch.where(cond.mask[..., None], h, self.blanks.weight.to(h.dtype))
        return h + self.places.weight

    @property
    def wanted(self) -> tuple[int, ...]:
        """The shape of a row's tokens."""
        return (self.length, self.width) if self.embed is None else (self.length,)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, causal: bool, dropout: float, style: Style):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width, style.eps), RMSNorm(width, style.eps)
        self.attention = Attention(width, heads, style.groups or heads, causal, style.qk_norm)
        self.mlp = SwiGLU(width, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, turn: Turn | None, memory: Memory | None) -> Tensor:
        """[B,T,D] -> [B,T,D]."""
        x = x + self.dropout(self.attention(self.norm1(x), turn, memory))
        return x + self.dropout(self.mlp(self.norm2(x)))


@dataclass
class State:
    """What a causal transformer remembers of a sequence: keys and values per layer, and the last symbol's embedding."""

    layers: list[Memory]
    last: Tensor  # [B,1,D], zero before the first symbol

    @property
    def at(self) -> int:
        return self.layers[0].at


class Transformer(Network):
    """Symbols -> logits, int64[B,T] -> [B,T,V].

    Args:
        vocab: symbols that may come in.
        width: channels D; a multiple of heads.
        depth: blocks.
        heads: attention heads.
        out: symbols scored, the first of the vocabulary; 0 = all.
        causal: row t sees symbols 0 .. t only.
        told: width of the condition vector, added to every position; 0 = none.
        dropout: on what each layer adds to the stream.
        prefix: what is told before the first symbol, cond.tokens int64[B,L] or [B,L,D]; None = none.

    Raises:
        ValueError: a shape that does not divide.
    """

    edges = ("embed", "head", "places", "told", "heard")

    def __init__(
        self,
        vocab: int,
        width: int,
        depth: int,
        heads: int,
        *,
        out: int = 0,
        causal: bool = True,
        told: int = 0,
        dropout: float = 0.0,
        style: Style = Style(),
        prefix: Prefix | None = None,
    ):
        super().__init__()
        groups, hidden = style.groups or heads, style.hidden or -(-8 * width // 96) * 32
        if width % heads or heads % groups or (width // heads) % 2:
            near = max(2, round(width / heads / 2) * 2) * heads
            raise ValueError(f"width {width} is not {heads} heads of even size in {groups} groups; nearest width {near}")
        self.style, self.causal, self.out, self.groups, self.size = style, causal, out or vocab, groups, width // heads
        self.embed = nn.Embedding(vocab, width)
        self.smear = nn.Parameter(torch.zeros(width)) if style.smear and causal else None
        axes, self.places = style.learned, None
        self.learned = axes if isinstance(axes, int) else math.prod(axes)
        if self.learned:
            self.places = nn.Embedding(axes, width) if isinstance(axes, int) else GridPlaces(axes, width)
        self.told = nn.Linear(told, width, bias=False) if told else None
        self.heard = Heard(prefix, width) if prefix else None
        self.blocks = nn.ModuleList(Block(width, heads, hidden, causal, dropout, style) for _ in range(depth))
        self.norm = RMSNorm(width, style.eps)
        self.head = None if style.tied else nn.Linear(width, self.out, bias=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Normal, std 0.02 (GPT-2); layers that write to the stream start at zero, so depth costs no stability."""
        for name, p in self.named_parameters():
            if p.ndim == 2:
                writes = name.endswith(("out.weight", "down.weight"))
                nn.init.zeros_(p) if writes else nn.init.normal_(p, std=0.02)

    def forward(
        self,
        x: Tensor,
        *,
        t: Tensor | None = None,
        cond: Condition | None = None,
        state: State | None = None,
        both: bool = False,
    ) -> Any:
        """int64[B,T] -> [B,T,V]; with a state, x holds the newest T symbols only. t is not used: x shows how far it is.

        Args:
            both: give what `read` gives.
        """
        h = self.stream(x, cond, state)
        own = h[:, -x.shape[1] :]
        out = self.head(own) if self.head is not None else nn.functional.linear(own, self.embed.weight[: self.out])
        if not both or self.heard is None or self.heard.head is None:
            return out
        return self.heard.head(h[:, : self.heard.length]), out

    def read(self, x: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """What follows each symbol that is told, logits [B,L,W], and each of x int64[B,T], [B,T,V]; in one pass.

        Raises:
            ValueError: nothing is told that would be scored.
        """
        if self.heard is None or self.heard.head is None:
            raise ValueError("this network scores nothing that it is told")
        return self(x, cond=cond, both=True)

    def stream(self, x: Tensor, cond: Condition | None, state: State | None) -> Tensor:
        """What the last block leaves, normalised: [B,T,D], or [B,L+T,D] where told tokens stand before the first."""
        at, before = state.at if state is not None else 0, self.heard.length if self.heard is not None else 0
        h = self.enter(x, max(0, at - before), cond, state)
        if self.heard is not None and at == 0:
            h = torch.cat([self.heard(cond).to(h.dtype), h], 1)
        turn = None
        if self.places is None:
            cos, sin = turns(at, h.shape[1], self.size, self.style.theta, x.device)
            turn = (cos.to(h.dtype), sin.to(h.dtype))
        for i, block in enumerate(self.blocks):
            h = block(h, turn, state.layers[i] if state is not None else None)
        return self.norm(h)

    def __call__(self, *args: Any, state: State | None = None, **named: Any) -> Any:
        """Compiled for training only, if at all: the shapes of decoding and scoring would each cost a compilation."""
        call = self._wrapped_call_impl if self.training and state is None else self._call_impl
        return call(*args, state=state, **named)

    def enter(self, x: Tensor, first: int, cond: Condition | None, state: State | None) -> Tensor:
        """Symbols, the one before each, their places and the condition, summed: int64[B,T] -> [B,T,D]."""
        h = self.embed(x)
        if self.smear is not None:
            last = state.last if state is not None else torch.zeros_like(h[:, :1])
            before = torch.cat([last, h[:, :-1]], 1)
            if state is not None:
                state.last = h[:, -1:]
            h = h + self.smear * before
        if self.places is not None:
            self.check(first + x.shape[1])
            h = h + self.places.weight[first : first + x.shape[1]]
        if self.told is not None:
            if cond is None or cond.vector is None:
                raise ValueError(f"this network must be told a condition vector of width {self.told.in_features}")
            h = h + self.told(cond.vector)[:, None]
        return h

    def check(self, length: int) -> None:
        """Raises ValueError when a sequence is longer than the learned positions."""
        if self.learned and length > self.learned:
            raise ValueError(f"{length} positions are {length - self.learned} more than the {self.learned} learned")

    def begin(self, batch: int, length: int) -> State | None:
        """Memory for `length` symbols, allocated at once; None when the network looks both ways."""
        if not self.causal:
            return None
        self.check(length)
        device, dtype = device_of(self), self.embed.weight.dtype
        shape = (batch, self.groups, length + (self.heard.length if self.heard is not None else 0), self.size)
        layers = [Memory(*(torch.zeros(shape, device=device, dtype=dtype) for _ in "kv")) for _ in self.blocks]
        return State(layers, torch.zeros(batch, 1, self.embed.embedding_dim, device=device, dtype=dtype))
