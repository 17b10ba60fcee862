"""Pairs of answers, the better and the worse, as symbols. Knows roles and what a codec of conversations does, not which it is."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Batch, Conversing, Turns
from maquette.data.conversations import CHUNK, Written, conversations, stacked, taught
from maquette.data.core import Data, Split
from maquette.data.errors import DataError


class Pair(NamedTuple):
    """The conversation with the better answer, both answers in symbols, and which row of the split it is."""

    turns: Turns
    better: Written
    worse: Written
    place: int


class Comparisons(Split):
    """Rows {"code", "learnt", "document"}, each [B,2,T]: the better answer and the worse, each behind its question, as
    `conversations.Conversations` has one; T is the longest's length. Tokenised when first asked for.

    Those of which an answer does not fit are left out.

    Args:
        split: rows with "rejected" beside "messages", or beside "source" and "text".
        codec: must have learnt its symbols before the first row is asked for.
        length: symbols of a question and its answer at most.

    Raises:
        DataError: (on first use) more than half of the pairs are too long.
    """

    def __init__(self, split: Split, codec: Conversing, length: int):
        super().__init__(split.columns, split.levels)
        self.codec, self.length = codec, length

    @cached_property
    def written(self) -> list[Pair]:
        """Every pair that fits."""
        columns: Any = self.columns
        better = conversations(self)
        worse = [[*turns[:-1], {**turns[-1], "content": said}] for turns, said in zip(better, columns["rejected"], strict=True)]
        found: list[tuple[Turns, Written, Written]] = []
        for at in range(0, len(better), CHUNK):
            some = slice(at, at + CHUNK)
            found += zip(better[some], taught(self.codec, better[some]), taught(self.codec, worse[some]), strict=True)
        fits = [max(len(symbols) for symbols, _ in row[1:]) <= self.length for row in found]
        kept = [Pair(*row, place) for place, row in enumerate(found) if fits[place]]
        if 2 * len(kept) < len(found) or not kept:
            most = max(len(symbols) for row in found for symbols, _ in row[1:])
            raise DataError(
                f"{len(found) - len(kept)} of {len(found)} pairs have an answer that ends beyond {self.length} symbols; "
                f"the longest has {most}: --context {most}"
            )
        return kept

    @property
    def talks(self) -> list[Turns]:
        """The conversations that fit, each with its better answer."""
        return [pair.turns for pair in self.written]

    def __len__(self) -> int:
        return len(self.written)

    def rows(self, index: Tensor) -> Batch:
        """The rows at int64[B] positions."""
        return paired(self.codec, [self.written[i][1:3] for i in index.tolist()])


def paired(codec: Conversing, pairs: list[tuple[Written, ...]]) -> Batch:
    """Rows of several conversations each, side by side: {"code", "learnt", "document"}, [B,K,T] each.

    Learnt is the last answer alone, which is what is compared: what was said before it is the question.
    """
    each = [(symbols, _last(said)) for pair in pairs for symbols, said in pair]
    length = max(len(symbols) for symbols, _ in each)
    batch = stacked(codec, [[one] for one in each], length)
    return {name: column.unflatten(0, (len(pairs), -1)) for name, column in batch.items()}


def _last(said: list[bool]) -> list[bool]:
    """Of which symbols are answers': which are the last one's."""
    end = max((i + 1 for i, own in enumerate(said) if own), default=0)
    first = max((i + 1 for i, own in enumerate(said[:end]) if not own), default=0)
    return [first <= i < end for i in range(len(said))]


def compared(data: Data, codec: Conversing, length: int) -> Data:
    """The same data and facts, its rows pairs of answers in symbols."""
    return Data(data.facts, lambda: {name: Comparisons(split, codec, length) for name, split in data.splits.items()})


def judged(codec: Conversing, talks: list[Turns]) -> Batch:
    """Conversations with their answers, to be judged one by one: {"code", "learnt", "document"}, [B,1,T] each."""
    return paired(codec, [(one,) for one in taught(codec, talks)])


def unrelated(batch: Batch) -> tuple[Tensor, ...]:
    """Each question with another's answer: code, learnt and document [2B,T'], the better answers first, each moved on by one row,
    the last to the worse ones' first (Ethayarajh 2024, sec. 4.1).

    What stands behind a question is an answer alone, so that both are found by what is learnt.
    """
    code, learnt, document = (batch[name].transpose(0, 1).flatten(0, 1) for name in ("code", "learnt", "document"))
    begun = [code[i, : int(said.long().argmax())] for i, said in enumerate(learnt)]
    length = max(len(begun[i]) + int(learnt[i - 1].sum()) for i in range(len(code)))
    made = code.new_full((len(code), length), IGNORE)
    said = torch.zeros(made.shape, dtype=torch.bool)
    of = torch.full(made.shape, 2)
    for i, first in enumerate(begun):
        symbols = torch.cat([first, code[i - 1][learnt[i - 1]]])
        made[i, : len(symbols)], said[i, len(first) : len(symbols)], of[i, : len(symbols) + 1] = symbols, True, 1
        of[i, 0] = document[i, 0]
    return made, said, of
