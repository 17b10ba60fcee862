"""Questions to be answered anew: rows as conversations, what an answer grows from, and the fields that a reward looks at.

Knows conversations and pairs of answers, not who answers nor how it learns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Batch, Conversing
from maquette.data.comparisons import Comparisons
from maquette.data.conversations import Conversations, asked, questions
from maquette.data.core import Data, Split


class Questions(Conversations):
    """Conversations, or beginnings of programs and what follows, one to a row, with what answers to them grow from: {"code",
    "learnt", "document", "start", "row"}.

    start: int64[B,length], the question in symbols, IGNORE where an answer is to be written; row: the fields of each row by name,
    and its "turns", the conversation up to the answer.

    Args:
        split, codec, length: as those of conversations.
        check: by which of data/checks.py an answer is right.
    """

    def __init__(self, split: Split, codec: Conversing, length: int, check: str):
        super().__init__(split if "source" in split.columns else continued(split), codec, length, packed=False)
        self.check = check

    def rows(self, index: Tensor) -> Batch:
        """The rows at int64[B] positions."""
        return {**super().rows(index), **opened(self, self.length, index)}

    def fields(self, row: int) -> dict[str, Any]:
        """What a check may look at: the row's own fields."""
        return fields_of(self, row)


class Contested(Comparisons):
    """Pairs of answers, with what others to the same questions grow from: "start" and "row" beside {"code", "learnt",
    "document"}, as `Questions` and `Comparisons` have them."""

    def rows(self, index: Tensor) -> Batch:
        """The rows at int64[B] positions."""
        return {**super().rows(index), **opened(self, self.length, index)}


def fields_of(split: Conversations | Comparisons, row: int) -> dict[str, Any]:
    """A row's own fields by name, and "turns", its conversation up to the last answer."""
    kept = split.written[row]
    return {**{name: column[kept.place] for name, column in split.columns.items()}, "turns": questions([kept.turns])[0][0]}


def opened(split: Conversations | Comparisons, length: int, index: Tensor) -> Batch:
    """What answers to some rows grow from, "start" int64[B,length], and the fields of each, "row"."""
    rows = [fields_of(split, i) for i in index.tolist()]
    start = torch.full((len(rows), length), IGNORE)
    for line, symbols in zip(start, asked(split.codec, [row["turns"] for row in rows]), strict=True):
        line[: len(symbols)] = torch.tensor(symbols)
    return {"start": start, "row": rows}


def continued(split: Split) -> Split:
    """Rows with "prompt" and "text" that begins so: the one asks, and what follows it answers. Others stay as they are."""
    columns: dict[str, Any] = dict(split.columns)
    if {"prompt", "text"} <= columns.keys():
        columns["source"] = columns["prompt"]
        columns["text"] = [text.removeprefix(prompt) for prompt, text in zip(columns["prompt"], columns["text"], strict=True)]
    return Split(columns, split.levels)


def asking(data: Data, codec: Conversing, length: int, check: str) -> Data:
    """The same data and facts, its rows questions."""
    return Data(data.facts, lambda: {name: Questions(split, codec, length, check) for name, split in data.splits.items()})


def contested(data: Data, codec: Conversing, length: int) -> Data:
    """The same data and facts, its rows pairs of answers whose questions may be answered anew."""
    return Data(data.facts, lambda: {name: Contested(split, codec, length) for name, split in data.splits.items()})
