"""What samplers of symbols share: the page they write on, and a causal network that reads it. Knows no way to choose a symbol.

A page is a code int64[n,T], IGNORE where nothing is written yet, and which of its symbols a start brought: `known`, bool[n,T].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Codec, Condition, Dials, Network


class Writer(Dials):
    """A sampler that writes symbols, one after another. Any may stand in the place of another, dials of one name kept."""

    grows = True  # every draft is the beginning of the next


def check(name: str, value: float, low: float, high: float, what: str) -> None:
    """Raises ValueError: a dial outside low .. high, named with what it is and the nearest value."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {what}, not {value}; nearest is {min(max(value, low), high):g}")


def page(n: int, start: Code | None, length: int, own: int, device: torch.device) -> tuple[Code, Tensor]:
    """A page of `length` symbols (0 = `own`), or as many as the start has, and which of them are known."""
    width = 0 if start is None else start.shape[1]
    code = torch.full((n, max(length or own, width)), IGNORE, dtype=torch.int64, device=device)
    if start is not None:
        code[:, :width] = start
    return code, code != IGNORE


def leading(known: Tensor) -> Tensor:
    """How many symbols of each row are known before the first that is not, int64[n]."""
    return known.long().cumprod(1).sum(1)


def rows_of(cond: Condition | None, rows: slice | Tensor) -> Condition | None:
    """What some of the rows are told."""
    return None if cond is None else cond.map(lambda slot: slot[rows])


class Reader:
    """A causal network that reads a growing page: what it says of the symbols that come next.

    Args:
        codec: says which symbol stands before the first, and whether one does where a row begins with some.
        rows: how many.
        length: symbols of the page.
        known: how many symbols every row begins with.
    """

    def __init__(self, net: Network, cond: Condition | None, codec: Codec, rows: int, length: int, known: int = 0):
        self.net, self.cond, self.bos, self.ends, self.known = net, cond, int(codec.bos), codec.ends, known
        self.skip = int(known > 0 and not codec.begins)  # the first place, which nothing stands before
        self.state, self.seen = net.begin(rows, length), self.skip
        self.sound = False  # whether it was seen that the network says numbers

    def next(self, code: Code, place: int) -> Tensor:
        """Logits [n,V] of the symbol at `place`, from those before it."""
        return self.span(code, place, place + 1)[:, -1]

    def span(self, code: Code, first: int, last: int) -> Tensor:
        """Logits [n, last - first, V] of the symbols at first .. last - 1, each from those before it; all those are written.

        Raises:
            ValueError: this network has read on, and its memory cannot go back; or it says no numbers from the first.
        """
        logits = self._span(code, first, last)
        if not self.sound and bool(logits.isnan().any()):
            raise ValueError("this run's network says no numbers of what comes next: some of its weights are not finite")
        self.sound = True
        return logits

    def _span(self, code: Code, first: int, last: int) -> Tensor:
        if self.state is None:
            inputs = self._inputs(code, 0, code.shape[1])
            inputs = inputs.masked_fill(inputs == IGNORE, self.bos)[:, self.skip :]
            return self.net(inputs, cond=self.cond)[:, first - self.skip : last - self.skip]
        self.back(first)
        inputs, chosen = self._inputs(code, self.seen, last), {}
        read = inputs.shape[1]
        if read > last - first and getattr(self.net, "selective", False):  # of a long prompt, scores are a fifth of the work
            chosen["only"] = torch.arange(read - (last - first), read, device=inputs.device).expand(len(inputs), -1)
        out = self.net(inputs, cond=self.cond, state=self.state, **chosen)
        self.seen = last
        return out[:, first - last :]

    def back(self, place: int) -> None:
        """Forget what was read for the symbols behind `place`.

        Raises:
            ValueError: this network's memory cannot go back.
        """
        if self.state is not None and self.seen > place:
            rewind(self.state, self.seen - place)
            self.seen = place

    def _inputs(self, code: Code, first: int, last: int) -> Tensor:
        """The symbols before places first .. last - 1."""
        if first:
            return code[:, first - 1 : last - 1]
        begun = code.new_full((len(code), 1), self.bos)
        return torch.cat([begun, code[:, : last - 1]], 1) if last > 1 else begun

    def select(self, rows: Tensor) -> None:
        """From now on row i is what row rows[i] was, int64[n]; what rows are told stays where it is.

        Raises:
            ValueError: this network's memory cannot be copied row by row.
        """
        if self.state is not None:
            select(self.state, rows)


def ending(symbols: Tensor, codec: Codec) -> Tensor:
    """Which symbols end a text: int64[...] -> bool[...]."""
    first, *others = codec.ends
    found = symbols == first
    for other in others:
        found = found | (symbols == other)
    return found


def said(net: Network, code: Code, cond: Condition | None, codec: Codec, counted: Tensor) -> Tensor:
    """Log-probability of each symbol of a page, given those before it: float32[n,T], NaN where not `counted`, bool[n,T].

    The network's own: no temperature, nothing left out. Where nothing stands before a first symbol, that has none.
    """
    bos, skip = int(codec.bos), int(not codec.begins and not bool(counted[:, 0].any()))
    before = torch.cat([code.new_full((len(code), 1), bos), code[:, :-1]], 1)
    before, found = before.masked_fill(before == IGNORE, bos), []
    for i in range(len(code)):  # the logits of one row may be a quarter of a gigabyte
        row = slice(i, i + 1)
        logs = net(before[row, skip:], cond=rows_of(cond, row)).float().log_softmax(-1)
        found.append(logs.gather(2, code[row, skip:, None].clamp(min=0))[..., 0])
    return torch.nn.functional.pad(torch.cat(found), (skip, 0)).masked_fill(~counted, torch.nan)


def own(code: Code, known: Tensor, codec: Codec) -> Tensor:
    """bool[n,T]: what was written of each row of a page, up to its end and without it."""
    gone = ((ending(code, codec) & ~known) | (code == IGNORE)).long().cumsum(1) > 0
    return ~known & ~gone


def rewind(state: Any, count: int) -> None:
    """Make a memory forget the newest `count` positions.

    Raises:
        ValueError: it cannot.
    """
    if not hasattr(state, "rewind"):
        raise ValueError("this network's memory cannot go back to an earlier symbol, as drafts need it to")
    state.rewind(state.at - count)


def select(state: Any, rows: Tensor) -> None:
    """Make row i of a memory what its row rows[i] was, int64[n]; one of 2 n rows (guidance) holds two such batches.

    Rows that change places were told the same, so that what is kept of that stays.

    Raises:
        ValueError: it cannot be copied row by row.
    """
    if not all(hasattr(layer, "kept") for layer in getattr(state, "layers", [None])):
        raise ValueError("this network's memory cannot be copied row by row, as beams need it to be")
    times = len(state.symbols) // len(rows)
    every = torch.cat([rows + i * len(rows) for i in range(times)])
    state.symbols = state.symbols[every]
    for memory in [*state.layers, *([] if state.ahead is None else [state.ahead])]:
        for kept in memory.kept:
            kept[:, :, : memory.at] = kept[every, :, : memory.at]
    if state.stream is not None:
        state.stream = state.stream[every]
