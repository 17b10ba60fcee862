"""One transformer over symbols, causal or not: its switches make the published families (networks/presets.py).

Knows symbols, positions, and what it may be told: a vector, tokens before the first symbol, or tokens to attend to. Not what any
of them mean, nor whether row t is read as a guess of symbol t (bidirectional) or of the one after it (causal).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from maquette.contracts import IGNORE, Condition, Network, device_of
from maquette.networks.heard import Heard, Prefix
from maquette.networks.style import LLAMA, Feed, Style
from maquette.nn.attention import Cross, Memory, View
from maquette.nn.positions import Positions, Turn


class Block(nn.Module):
    """x + attention(norm(x)), where tokens are told x + cross(norm(x), tokens), then x + feed-forward(norm(x))."""

    def __init__(
        self, width: int, heads: int, causal: bool, dropout: float, style: Style, feed: Feed, cross: Cross | None = None
    ):
        super().__init__()

        def norm(wanted: bool) -> nn.Module:
            return style.norm(width) if wanted else nn.Identity()

        around = style.around
        self.norm1, self.after1, self.total1 = norm(around.before), norm(around.after), norm(around.total)
        self.norm2, self.after2, self.total2 = norm(around.before), norm(around.after), norm(around.total)
        self.norm3, self.total3 = norm(cross is not None and around.before), norm(cross is not None and around.total)
        self.attention, self.cross, self.mlp = style.attention(width, heads, causal), cross, feed(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        view: View,
        memory: Memory | None = None,
        heard: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """[B,T,D] -> [B,T,D]."""
        x = self.total1(x + self.dropout(self.after1(self.attention(self.norm1(x), view, memory))))
        if self.cross is not None:
            x = self.total3(x + self.dropout(self.cross(self.norm3(x), heard, mask)))
        return self.total2(x + self.dropout(self.after2(self.mlp(self.norm2(x)))))


class Ahead(nn.Module):
    """One guess further ahead: the stream at t and the embedding of the symbol after it -> the stream of a guess of the one after
    that (DeepSeek-V3, eq. 21-23)."""

    def __init__(self, width: int, block: Block, style: Style):
        super().__init__()
        self.norm_h, self.norm_e = style.norm(width), style.norm(width)
        self.join = nn.Linear(2 * width, width, bias=False)
        self.block = block

    def forward(self, h: Tensor, following: Tensor, view: View, memory: Memory | None = None) -> Tensor:
        """[B,T,D] twice -> [B,T,D]."""
        return self.block(self.join(torch.cat([self.norm_h(h), self.norm_e(following)], -1)), view, memory)


@dataclass
class State:
    """What a causal transformer remembers of a sequence."""

    layers: list[Memory]
    symbols: Tensor  # int64[B,length]
    before: int  # positions of what is told before the first symbol
    turns: tuple[Turn | None, Turn | None]  # of all positions, far and near
    heard: list[tuple[Tensor, Tensor]] | None = None  # keys and values of what is told, per layer
    ahead: Memory | None = None
    stream: Tensor | None = None  # [B,T,D] what the last block left of the newest symbols

    @property
    def at(self) -> int:
        """Positions seen."""
        return self.layers[0].at

    def rewind(self, at: int) -> None:
        """Forget all positions from `at` on.

        Raises:
            ValueError: they are not there yet.
        """
        if not 0 <= at <= self.at:
            raise ValueError(f"{self.at} positions are remembered: position {at} is not among them")
        if self.stream is not None:
            self.stream = self.stream[:, : max(0, self.stream.shape[1] - self.at + at)]
        for layer in self.layers:
            layer.at = at
        if self.ahead is not None:
            self.ahead.at = min(self.ahead.at, max(0, at - 1))


@dataclass(frozen=True)
class Reading:
    """All that a transformer makes of x: logits `out` [B,T,V] of the symbol after each, `told` [B,L,W] of each that is told, and
    `ahead`, one [B,T-k,V] per k = 1 .. of the symbol k further on."""

    out: Tensor
    told: Tensor | None = None
    ahead: tuple[Tensor, ...] = ()


class Transformer(Network):
    """Symbols -> logits, int64[B,T] -> [B,T,V]. Where it is not causal, IGNORE fills up rows and is not seen.

    Args:
        vocab: symbols that may come in.
        width: channels D; a multiple of heads.
        depth: blocks.
        heads: attention heads.
        out: symbols scored, the first of the vocabulary; 0 = all; None = none are, and the stream [B,T,D] is what comes out.
        causal: row t sees symbols 0 .. t only.
        told: width of the condition vector, added to every position; 0 = none.
        dropout: on what each layer adds to the stream.
        prefix: what is told before the first symbol, cond.tokens int64[B,L] or [B,L,D]; None = none.
        cross: (width, heads) -> what every block attends with to the tokens it is told, cond.tokens [B,L,E] and cond.mask
            bool[B,L]; None = they do not.

    Raises:
        ValueError: a shape that does not divide, or switches that exclude each other.
    """

    edges = ("embed", "head", "places", "told", "heard", "kinds")
    selective = True

    def __init__(
        self,
        vocab: int,
        width: int,
        depth: int,
        heads: int,
        *,
        out: int | None = 0,
        causal: bool = True,
        told: int = 0,
        dropout: float = 0.0,
        style: Style = LLAMA,
        prefix: Prefix | None = None,
        cross: Callable[[int, int], Cross] | None = None,
    ):
        super().__init__()
        if style.ahead and not causal:
            raise ValueError("only a causal transformer guesses ahead")
        if style.apart is not None and prefix:
            raise ValueError("documents are kept apart, or something is told before the first symbol, not both")
        ends, self.style, self.causal, self.width = style.ends, style, causal, width
        self.out = vocab if out == 0 else out
        self.embed = nn.Embedding(vocab, width)
        self.kinds = nn.Embedding(ends.kinds, width) if ends.kinds else None
        self.norm_in = style.norm(width) if ends.norm else None
        self.smear = nn.Parameter(torch.zeros(width)) if style.smear else None
        self.smear_back = nn.Parameter(torch.zeros(width)) if style.smear and not causal else None
        self.told = nn.Linear(told, width, bias=False) if told else None
        self.heard = Heard(prefix, width) if prefix else None

        def block(i: int) -> Block:
            other = cross(width, heads) if cross is not None else None
            return Block(width, heads, causal, dropout, style, style.instead.get(i, style.feed), other)

        self.blocks = nn.ModuleList(block(i) for i in range(depth))
        near, turned = style.near, cast(Any, self.blocks[0]).attention.turned if depth else 0
        self.is_near = [near is not None and near.turns[i % len(near.turns)] for i in range(depth)]
        self.places = style.positions(width, heads, turned) if style.positions else None
        self.places_near = near.positions(width, heads, turned) if near is not None and near.positions else None
        self.norm = style.norm(width) if ends.last else None
        self.ahead = nn.ModuleList(Ahead(width, block(depth), style) for _ in range(style.ahead))
        self.shape_head, self.norm_head, self.head, self.head_bias = None, None, None, None
        if self.out is not None:
            if ends.act is not None:
                self.shape_head, self.norm_head = nn.Linear(width, width), style.norm(width)
            self.head = None if ends.tied else nn.Linear(width, self.out, bias=False)
            self.head_bias = nn.Parameter(torch.zeros(self.out)) if ends.bias else None
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Normal, std 0.02 (GPT-2); layers that write to the stream start at zero, so depth costs no stability."""
        for name, p in self.named_parameters():
            if p.ndim == 2:
                writes = name.endswith((".out.weight", ".down.weight"))
                nn.init.zeros_(p) if writes else nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(
        self,
        x: Tensor,
        *,
        t: Tensor | None = None,
        cond: Condition | None = None,
        state: State | None = None,
        only: Tensor | None = None,
        whole: bool = False,
    ) -> Any:
        """int64[B,T] -> [B,T,V]; with a state, x holds the newest T symbols only. t is not used: x shows how far it is.

        Args:
            only: places int64[B,K] to score; None = all.
            whole: give a Reading, of all that can be read.
        """
        h = self.stream(x, cond, state)
        own = h[:, -x.shape[1] :]
        out = self.score(own if only is None else own.gather(1, only[..., None].expand(-1, -1, self.width)))
        if not whole:
            return out
        told = None
        if self.heard is not None and self.heard.head is not None:
            told = self.heard.head(self.last(h)[:, : self.heard.length])
        return Reading(out, told, tuple(self._ahead(own, x, cond)))

    def read(self, x: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """What follows each symbol that is told, logits [B,L,W], and each of x int64[B,T], [B,T,V]; in one pass.

        Raises:
            ValueError: nothing is told that would be scored.
        """
        if self.heard is None or self.heard.head is None:
            raise ValueError("this network scores nothing that it is told")
        found = self(x, cond=cond, whole=True)
        return found.told, found.out

    def score(self, h: Tensor) -> Tensor:
        """What the last block leaves [B,T,D] -> logits [B,T,V], or the normalised stream where nothing is scored."""
        ends, h = self.style.ends, self.last(h)
        if self.out is None:
            return h
        if self.shape_head is not None and self.norm_head is not None and ends.act is not None:
            h = self.norm_head(ends.act(self.shape_head(h)))
        if ends.out_scale != 1:
            h = h * ends.out_scale
        out = self.head(h) if self.head is not None else nn.functional.linear(h, self.embed.weight[: self.out])
        if self.head_bias is not None:
            out = out + self.head_bias
        return ends.cap * (out / ends.cap).tanh() if ends.cap else out

    def headless(self) -> Transformer:
        """This network, from now on scoring nothing: what comes out is its stream."""
        self.out = self.head = self.head_bias = self.shape_head = self.norm_head = None
        return self

    def last(self, h: Tensor) -> Tensor:
        """The last normalisation, where there is one."""
        return h if self.norm is None else self.norm(h)

    def stream(self, x: Tensor, cond: Condition | None, state: State | None) -> Tensor:
        """What the last block leaves: [B,T,D], or [B,L+T,D] where told tokens stand before the first."""
        at, before = state.at if state is not None else 0, self.heard.length if self.heard is not None else 0
        first = max(0, at - before)
        if state is not None:
            if first + x.shape[1] > state.symbols.shape[1]:
                raise ValueError(f"position {first + x.shape[1] - 1} is beyond this memory's length of {state.symbols.shape[1]}")
            state.symbols[:, first : first + x.shape[1]] = x
        h = self.enter(x, first, cond, state)
        if self.heard is not None and at == 0:
            h = torch.cat([self.heard(cond).to(h.dtype), h], 1)
        far, near = self.views(x, at, h, state, documents_of(cond, state))
        mask = cond.mask if cond is not None else None
        heard = self._hear(cond, state)
        for i, block in enumerate(self.blocks):
            view = near if self.is_near[i] else far
            h = block(h, view, state.layers[i] if state is not None else None, heard[i] if heard else None, mask)
        if state is not None and self.ahead:
            state.stream = h
        return h

    def views(self, x: Tensor, first: int, h: Tensor, state: State | None, documents: Tensor | None = None) -> tuple[View, View]:
        """What layers may see that see everything, and those that see a window: of positions `first` .. in h [B,T,D]."""
        new, real = h.shape[1], None
        if documents is not None:
            if new > x.shape[1]:
                raise ValueError("documents share a row, or something is told before the first symbol, not both")
            real = documents[:, :, None] == documents[:, None]
        elif self.style.apart is not None:
            line = x if state is None else state.symbols[:, : first + new]
            document = (line == self.style.apart).cumsum(1)
            real = document[:, -new:, None] == document[:, None]
        elif not self.causal:
            real = x != IGNORE
        remembered = state.turns if state is not None else (None, None)
        turn = self._turn(self.places, first, new, h, remembered[0])
        bias = self.places.bias(new, first + new, h.device) if self.places is not None else None
        far = View(turn, bias, real)
        if self.style.near is None:
            return far, far
        if self.places_near is not None:
            turn = self._turn(self.places_near, first, new, h, remembered[1])
        return far, replace(far, turn=turn, window=self.style.near.window)

    def _turn(self, places: Positions | None, first: int, new: int, h: Tensor, known: Turn | None) -> Turn | None:
        if places is None:
            return None
        turn = (
            places.turn(first, new, h.device) if known is None else (known[0][first : first + new], known[1][first : first + new])
        )
        return None if turn is None else (turn[0].to(h.dtype), turn[1].to(h.dtype))

    def _hear(self, cond: Condition | None, state: State | None) -> list[tuple[Tensor, Tensor]] | None:
        """Keys and values of what is told, per layer; with a state made once only."""
        crosses = [block.cross for block in self.blocks if block.cross is not None]
        if not crosses:
            return None
        if state is not None and state.heard is not None:
            return state.heard
        if cond is None or cond.tokens is None:
            raise ValueError("this network must be told tokens to attend to, as cond.tokens [B,L,D], and is told nothing")
        found = [cast(Cross, cross).hear(cond.tokens) for cross in crosses]
        if state is not None:
            state.heard = found
        return found

    def _ahead(self, h: Tensor, x: Tensor, cond: Condition | None) -> list[Tensor]:
        """Logits of the symbols further ahead, one [B,T-k,V] per k."""
        found, documents = [], documents_of(cond, None)
        for k, module in enumerate(self.ahead, 1):
            following = self.embedded(x[:, k:])
            some = None if documents is None else documents[:, :-k]
            h = module(h[:, :-1], following, self.views(x[:, :-k], 0, following, None, some)[0])
            found.append(self.score(h))
        return found

    def foresee(self, x: Tensor, state: State) -> Tensor:
        """Logits [B,T,V] of the symbol after each of x int64[B,T], which follow the newest T that the network has seen.

        A cheap guess by the first block ahead, for a draft that the network itself then checks; it keeps its own memory.

        Raises:
            ValueError: this network guesses nothing ahead, or has not seen that many.
        """
        if not self.ahead or state.ahead is None:
            raise ValueError("this network guesses no symbol ahead: it was built with ahead=0")
        new = x.shape[1]
        if state.stream is None or state.stream.shape[1] < new:
            raise ValueError(f"the network has not just seen the {new} symbols that these follow")
        h, following = state.stream[:, -new:], self.embedded(x)
        view = replace(self.views(x, state.ahead.at, h, state)[0], real=None)
        return self.score(self.ahead[0](h, following, view, state.ahead))

    def __call__(self, *args: Any, state: State | None = None, **named: Any) -> Any:
        """Compiled for training only, if at all: the shapes of decoding and scoring would each cost a compilation."""
        call = self._wrapped_call_impl if self.training and state is None else self._call_impl
        return call(*args, state=state, **named)

    def embedded(self, x: Tensor) -> Tensor:
        """Symbols alone: int64[B,T] -> [B,T,D]."""
        h = self.embed(x if self.causal else x.clamp(min=0))
        return h if self.style.ends.scale == 1 else h * self.style.ends.scale

    def enter(self, x: Tensor, first: int, cond: Condition | None, state: State | None) -> Tensor:
        """Symbols, the one before each, their places and the condition, summed: int64[B,T] -> [B,T,D]."""
        h, documents, apart = self.embedded(x), documents_of(cond, state), self.style.apart
        if self.smear is not None:  # the last symbol of one document is not before the first of the next
            begins = places_in(documents) == 0 if documents is not None else None if apart is None else x == apart
            none = torch.zeros_like(h[:, :1])
            last = self.embedded(state.symbols[:, first - 1 : first]) if state is not None and first else none
            last = torch.cat([last, h], 1)[:, :-1]
            if begins is not None:
                last = last.masked_fill(begins[..., None], 0)
            smeared = h + self.smear * last
            if self.smear_back is not None:
                real = h.masked_fill((x == IGNORE)[..., None], 0)  # what fills up a row is not behind its last symbol
                following = torch.cat([real, none], 1)[:, 1:]
                if begins is not None:
                    following = following.masked_fill(torch.nn.functional.pad(begins[:, 1:], (0, 1))[..., None], 0)
                smeared = smeared + self.smear_back * following
            h = smeared
        if self.kinds is not None:
            told = cond.field if cond is not None else None
            h = h + (self.kinds(told[:, 0]) if told is not None else self.kinds.weight[0])
        if self.places is not None:
            h = self.places.enter(h, first, None if documents is None else places_in(documents))
        if self.told is not None:
            if cond is None or cond.vector is None:
                raise ValueError(f"this network must be told a condition vector of width {self.told.in_features}")
            h = h + self.told(cond.vector)[:, None]
        return h if self.norm_in is None else self.norm_in(h)

    def begin(self, batch: int, length: int) -> State | None:
        """Memory for `length` symbols, allocated at once; None when the network looks both ways."""
        if not self.causal:
            return None
        if self.places is not None:
            self.places.check(length)
        before = self.heard.length if self.heard is not None else 0
        like, device = torch.empty(0, device=device_of(self), dtype=self.embed.weight.dtype), device_of(self)
        layers = [block.attention.memory(batch, before + length, like) for block in self.blocks]  # type: ignore[operator, union-attr]
        turns = tuple(
            places.turn(0, before + length, device) if places is not None else None for places in (self.places, self.places_near)
        )
        symbols = torch.zeros(batch, length, dtype=torch.int64, device=device)
        ahead = self.ahead[0].block.attention.memory(batch, length, like) if self.ahead else None  # type: ignore[operator, union-attr]
        return State(layers, symbols, before, cast("Any", turns), ahead=ahead)


def documents_of(cond: Condition | None, state: State | None) -> Tensor | None:
    """Which document each symbol is of, int64[B,T], where several share a row that is read at once."""
    if cond is None or cond.document is None:
        return None
    if state is not None:
        raise ValueError("documents that share a row are read at once; a memory is for one alone")
    return cond.document


def places_in(documents: Tensor) -> Tensor:
    """The place of each symbol in its own document, int64[B,T]; the symbols of one stand side by side."""
    place = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return place - place.masked_fill(~begins, 0).cummax(1).values
