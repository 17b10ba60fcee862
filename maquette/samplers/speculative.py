"""Speculative decoding: a cheap draft guesses several symbols, the network reads them all at once and keeps those it would draw.

The text has exactly the distribution that the network alone gives it, whatever the draft. Knows where drafts come from by their
contract alone: another network, the page itself, or a head of the same network that looks further ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Codec, Condition, Dials, device_of
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.guidance import guided
from maquette.samplers.rules import Steering, steering
from maquette.samplers.writing import Reader, Writer, check, leading, page, rows_of
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

Pick = Callable[[Tensor, int], tuple[int, Tensor]]  # logits [1,V] of a place -> a symbol, and log-chances [V] it was drawn by


class Drafting(Protocol):
    """A draft at work on one text."""

    def guess(self, code: Code, place: int, count: int, pick: Pick) -> list[tuple[int, Tensor | None]]:
        """Up to `count` symbols for `place` and those behind it on a page int64[1,T], and what each was drawn by: log-chances
        float[V], as `pick` gives them, or None for a guess without chances. It may write its guesses on the page.
        """


class Draft(Protocol):
    """Where guesses come from."""

    def begin(self, system: System, reader: Reader, length: int) -> Drafting:
        """A draft of one text of `length` symbols, which `reader` reads: what it last made of the page may be looked at."""


@dataclass(frozen=True)
class Lookup(Dials):
    """What followed when the newest symbols stood on the page before (Saxena 2023, prompt lookup): costs no network.

    Args:
        longest: symbols that are looked for, at most; the longest that are found count, and of several places the last.
    """

    longest: int = 3

    def __post_init__(self) -> None:
        check("longest", self.longest, 1, float("inf"), "1 or more symbols")

    def begin(self, system: System, reader: Reader, length: int) -> Drafting:
        return self

    def guess(self, code: Code, place: int, count: int, pick: Pick) -> list[tuple[int, Tensor | None]]:
        text = code[0, :place]
        for size in range(min(self.longest, place - 1), 0, -1):
            found = (text[:-1].unfold(0, size, 1) == text[-size:]).all(1).nonzero()
            if len(found):
                begin = int(found[-1]) + size
                return [(symbol, None) for symbol in text[begin : begin + count].tolist()]
        return []


@dataclass(frozen=True)
class Another:
    """Another system of the same symbols, a smaller one.

    Args:
        system: its network guesses; nothing is told to it.
        name: what messages call it.
    """

    system: System
    name: str = "the draft"

    def begin(self, system: System, reader: Reader, length: int) -> Drafting:
        """Raises ValueError: its symbols are not those of the system whose text it is to guess, or it must be told something."""
        alike(self.system, system, self.name)
        net = self.system.steady("main")
        return _Reading(Reader(net, None, self.system.codec, 1, length, reader.known), device_of(net), self.system.codec)


@dataclass(frozen=True)
class _Reading:
    reader: Reader
    device: torch.device
    codec: Codec

    def guess(self, code: Code, place: int, count: int, pick: Pick) -> list[tuple[int, Tensor | None]]:
        made: list[tuple[int, Tensor | None]] = []
        for at in range(place, place + count):
            made.append(pick(self.reader.next(code.to(self.device), at).to(code.device), at))
            code[0, at] = made[-1][0]
            if made[-1][0] in self.codec.ends:
                break
        return made


@dataclass(frozen=True)
class Foresight:
    """The network's own guess of the symbol after the next (DeepSeek-V3, sec. 2.2), where it has learnt to make one."""

    def begin(self, system: System, reader: Reader, length: int) -> Drafting:
        """Raises ValueError: it has not, or it is guided, and guesses unguided."""
        if not getattr(reader.net, "ahead", None) or reader.state is None:
            raise ValueError("this run's network guesses no symbol ahead (or is guided): draft by 'lookup' or by another run")
        return _Foreseeing(reader)


@dataclass(frozen=True)
class _Foreseeing:
    reader: Reader

    def guess(self, code: Code, place: int, count: int, pick: Pick) -> list[tuple[int, Tensor | None]]:
        net: Any = self.reader.net
        state: Any = self.reader.state
        if self.reader.seen < place:
            return []
        self.reader.back(place)
        new = place - state.ahead.at
        if state.stream is None or state.stream.shape[1] < new:
            return []
        return [pick(net.foresee(code[:, place - new : place], state)[:, -1], place)]


def alike(draft: System, system: System, name: str) -> None:
    """Raises ValueError: a draft whose symbols are not the system's, or that must be told something; says what is unlike."""
    ours, theirs = system.codec, draft.codec
    kinds = [f"{type(codec).__name__} of {getattr(codec, 'vocab', '?')} symbols" for codec in (theirs, ours)]
    if kinds[0] != kinds[1] or (theirs.bos, theirs.ends) != (ours.bos, ours.ends):
        raise ValueError(f"{name} writes {kinds[0]}, and this run {kinds[1]}: a draft must share the symbols of what it guesses")
    mine = {key: value.cpu() for key, value in ours.state_dict().items()}
    for key, value in theirs.state_dict().items():
        if key not in mine or not torch.equal(value.cpu(), mine[key]):
            raise ValueError(f"{name} writes {kinds[0]} too, but learnt other ones ({key}): a draft must share them")
    if draft.conditioner is not None:
        raise ValueError(f"{name} must be told {', '.join(draft.conditioner.fields)}; a draft is told nothing")


@dataclass(frozen=True)
class Speculative(Writer):
    """A guess is kept with chance min(1, p / q); the first that is not is drawn anew from max(0, p - q) (Leviathan 2023, alg. 1).

    Greedily, of guesses without chances, and coupled, a guess is kept where it is what the plain sampler draws from the same
    noise: the same text, seed for seed (Daliri 2024). Each sample is written by itself, so that none waits for another.

    Args:
        own: how symbols are chosen; guesses are chosen alike.
        draft: where guesses come from.
        ahead: guesses at a time.
        coupled: draft and network share their noise, and the seed's text is what it would be without a draft; fewer are kept.
    """

    own: Autoregressive = Autoregressive()  # noqa: RUF009
    draft: Draft = Lookup()
    ahead: int = 4
    coupled: bool = False

    def __post_init__(self) -> None:
        check("ahead", self.ahead, 1, float("inf"), "1 or more guesses at a time")

    def draw(
        self,
        system: System,
        n: int,
        *,
        start: Code | None = None,
        cond: Condition | None = None,
        null: Condition | None = None,
        rng: Streams,
    ) -> Iterator[Code]:
        """Drafts int64[n,T], row after row, IGNORE where nothing is written yet; starts as Autoregressive has them."""
        bos = int(system.codec.bos)
        code, known = page(n, start, self.own.length, int(system.codec.length), rng.keys.device)
        done = []
        for i in range(n):
            row = slice(i, i + 1)
            net = guided(system.steady("main"), self.own.guidance, rows_of(null, row))
            reader = Reader(net, rows_of(cond, row), system.codec, 1, code.shape[1], int(leading(known[row])))
            steer = steering(system, known[row], self.own.rules, self.own.penalties)
            for _ in self._write(reader, self.draft.begin(system, reader, code.shape[1]), code[row], known[row], steer, rng[row]):
                yield code.clone()
            written = code[row].masked_fill(code[row] == IGNORE, bos)
            done.append(written if steer is None else steer.cut(written))
        width = max(row.shape[1] for row in done)
        yield torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[1]), value=bos) for row in done])

    def _write(
        self, reader: Reader, draft: Drafting, code: Code, known: Tensor, steer: Steering | None, rng: Streams
    ) -> Iterator[None]:
        """Fill a page int64[1,T] in place, a few symbols at a time, up to its end."""
        place, length, ended = int(leading(known)), code.shape[1], torch.zeros(1, dtype=torch.bool, device=code.device)
        open_ = (~known[0]).tolist()
        while place < length and not bool(ended):
            if not open_[place]:
                place += 1
                continue
            run = next((i for i in range(1, self.ahead + 1) if place + i >= length or not open_[place + i]), self.ahead + 1)
            for symbol in self._block(reader, draft, code, place, run - 1, steer, rng):
                code[0, place] = symbol
                ended |= symbol in reader.ends
                if steer is not None:
                    ended = steer.over(code, place, ended)
                place += 1
                if bool(ended):
                    break
            code[0, place:] = torch.where(known[0, place:], code[0, place:], IGNORE)
            yield

    def _block(
        self, reader: Reader, draft: Drafting, code: Code, place: int, most: int, steer: Steering | None, rng: Streams
    ) -> list[int]:
        """The symbols from `place` on that one reading of the network gives: guesses that are kept, and one of its own."""

        def steered(logits: Tensor, at: int) -> Tensor:
            return logits if steer is None else steer(logits, code, at)

        def pick(logits: Tensor, at: int) -> tuple[int, Tensor]:
            noise = rng.fork(at) if self.coupled else rng.fork(at).fork(1)
            logits = steered(logits, at)
            return int(self.own.choose(logits, noise)), self._chances(logits)

        guesses = draft.guess(code, place, most, pick) if most else []
        for i, (symbol, _) in enumerate(guesses):
            code[0, place + i] = symbol
        read, made = reader.span(code, place, place + len(guesses) + 1), []
        for i, (symbol, chances) in enumerate([*guesses, (IGNORE, None)]):
            logits, noise = steered(read[:, i], place + i), rng.fork(place + i)
            if chances is None or self.own.temperature == 0 or self.coupled:
                made.append(int(self.own.choose(logits, noise)))
            else:
                p, q = self._chances(logits).exp(), chances.exp()
                kept = bool(noise.fork(2).uniform(1)[0, 0] * q[symbol] < p[symbol])
                made.append(symbol if kept else int(noise.fork(3).choose((p - q).clamp(min=0).log()[None])))
            if made[-1] != symbol:
                break
        return made

    def _chances(self, logits: Tensor) -> Tensor:
        """Log-chances [V] that a symbol is drawn by from logits [1,V]."""
        return self.own.trim(logits)[0].float().log_softmax(-1) if self.own.temperature else logits[0]
