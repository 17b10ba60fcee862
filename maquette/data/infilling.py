"""Documents as rows of which many have a hole, what fills it at the end: what a causal model learns infilling from.

Knows a tokenizer of texts with holes by what it needs of it; no model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Batch
from maquette.data.core import Data, Split
from maquette.data.errors import DataError

WAYS = 8  # rows that begin with the same piece
MARKS = 4  # symbols that a piece has besides its text: three marks and the end


class Holed(Protocol):
    """The part of a text codec that this file needs."""

    bos: int

    def tokenize(self, texts: list[str]) -> list[list[int]]: ...

    def around(self, prefix: str, suffix: str) -> list[int]: ...


class Holes(Split):
    """Rows {"code": int64[B,length], "learnt": bool[B,length]} of pieces of documents: each as it is, or cut at two places and
    its middle told last. Learnt is all of it, but for what is only shown.

    Pieces end with lines, and are cut between any two characters or, so that it is learnt where a line is to end, between lines
    (Bavarian 2022, sec. 3). Which pieces a row has, and how they are cut, follows from its position alone. Behind what ends a
    document, or fills a hole, stands `bos`.

    Args:
        documents: a split with a column "text", and where its texts begin with what is shown and not to be learnt, "given": how
            many characters of each; a text with such a beginning is a piece by itself, has no hole, and its end follows.
        codec: must have learnt before the first row is asked for.
        length: symbols of a row; the last piece is cut off there.
        rate: share of pieces with a hole.
        lines: share of these whose hole is of whole lines.
    """

    def __init__(self, documents: Split, codec: Holed, length: int, rate: float, lines: float):
        super().__init__(documents.columns)
        self.codec, self.length, self.rate, self.lines = codec, length, rate, lines

    @cached_property
    def pieces(self) -> list[tuple[str, bool]]:
        """(a run of lines that fits, whether its document ends there)."""
        found: list[tuple[str, bool]] = []
        for text, given in zip(self.columns["text"], self.given, strict=True):
            found += [(str(text), True)] if given else cut(str(text), self.codec, self.length - MARKS)
        if not found:
            raise DataError(f"no line of these texts fits into {self.length} symbols; a longer context is needed")
        return found

    def __len__(self) -> int:
        return len(self.pieces) * WAYS

    @property
    def given(self) -> list[int]:
        """How many characters each document begins with that are shown only."""
        return list(self.columns.get("given", [0] * len(self.columns["text"])))

    @cached_property
    def shown(self) -> dict[str, int]:
        """Of the pieces that begin with what is only shown, how many characters that is."""
        return {str(text): given for text, given in zip(self.columns["text"], self.given, strict=True) if given}

    def rows(self, index: Tensor) -> Batch:
        code = torch.full((len(index), self.length), IGNORE, dtype=torch.int64)
        learnt = torch.zeros(len(index), self.length, dtype=torch.bool)
        for row, place in enumerate(index.tolist()):
            symbols, said = self.row(place)
            code[row, : len(symbols)], learnt[row, : len(said)] = torch.tensor(symbols), torch.tensor(said)
        return {"code": code, "learnt": learnt}

    def row(self, place: int) -> tuple[list[int], list[bool]]:
        """The symbols of a row, and which are learnt: a piece, and those that follow it, each told in its own way, as many as
        there is room for."""
        rng, found, said, piece = random.Random(f"holes {place}"), list[int](), list[bool](), place // WAYS
        while len(found) < self.length:
            symbols, shown = self.told(piece % len(self.pieces), rng)
            found += symbols
            said += [i >= shown for i in range(len(symbols))]
            piece += 1
        return found[: self.length], said[: self.length]

    def told(self, piece: int, rng: random.Random) -> tuple[list[int], int]:
        """The symbols of a piece, and how many of them are only shown: as it is, or with a hole and what fills it."""
        text, last = self.pieces[piece]
        if text in self.shown:
            before, after = self.codec.tokenize([text[: self.shown[text]], text[self.shown[text] :]])
            return [*before, *after, self.codec.bos], len(before)
        if rng.random() >= self.rate:
            return [*self.codec.tokenize([text])[0], *([self.codec.bos] if last else [])], 0
        first, second = (between_lines if rng.random() < self.lines else anywhere)(text, rng)
        asked = self.codec.around(text[:first], text[second:])
        return [*asked, *self.codec.tokenize([text[first:second]])[0], self.codec.bos], 0


def anywhere(text: str, rng: random.Random) -> tuple[int, int]:
    """Where a hole begins and ends that is cut between any two characters."""
    first, second = sorted(rng.randint(0, len(text)) for _ in range(2))
    return first, second


def between_lines(text: str, rng: random.Random) -> tuple[int, int]:
    """Where a hole of whole lines begins and ends: of one in half of all cases, of two in a quarter, and so on; the text's first
    line and the last line break stay. It begins in front of the white space before it, or behind the line break, as both are
    asked for; a text of one line is cut anywhere."""
    ends = [place for place, sign in enumerate(text) if sign == "\n"]
    if len(ends) < 2:
        return anywhere(text, rng)
    first = second = rng.randrange(1, len(ends))
    while second + 1 < len(ends) and rng.random() < 0.5:
        second += 1
    begins = ends[first - 1] + 1
    return len(text[:begins].rstrip()) if rng.random() < 0.5 else begins, ends[second]


def cut(text: str, codec: Holed, most: int) -> list[tuple[str, bool]]:
    """Runs of a text's lines of at most `most` symbols each, and whether the text ends there; longer lines are left out."""
    lines = text.splitlines(keepends=True)
    pieces, some, held = list[str](), list[str](), 0
    for line, symbols in zip(lines, codec.tokenize(lines), strict=True):
        if held + len(symbols) > most and some:
            pieces.append("".join(some))
            some, held = [], 0
        if len(symbols) <= most:
            some.append(line)
            held += len(symbols)
    if some:
        pieces.append("".join(some))
    return [(piece, i + 1 == len(pieces)) for i, piece in enumerate(pieces)]


def infilled(data: Data, codec: Holed, length: int, rate: float, lines: float) -> Data:
    """The same data, its training rows with holes; what is held out stays as it is."""
    return Data(data.facts, lambda: {**data.splits, "train": Holes(data.splits["train"], codec, length, rate, lines)})


def lines_of(texts: Sequence[str], rng: random.Random) -> list[tuple[str, str, str]]:
    """(what stands before a line, the line, what stands after) of a line of each text, chosen at random among those that say
    something and have both."""
    found = []
    for text in texts:
        lines = text.splitlines(keepends=True)
        said = [i for i, line in enumerate(lines) if 0 < i < len(lines) - 1 and len(line.strip()) >= 4]
        if said:
            i = rng.choice(said)
            line = lines[i].rstrip("\r\n")
            found.append(("".join(lines[:i]), line, lines[i][len(line) :] + "".join(lines[i + 1 :])))
    return found
