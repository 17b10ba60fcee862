"""Questions whose answers are checked: rows as conversations, what an answer grows from, and the fields that a check looks at.

Knows conversations, not who answers nor how it learns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Batch, Conversing
from maquette.data.conversations import Conversations, asked, questions
from maquette.data.core import Data, Split


class Questions(Conversations):
    """Conversations, or beginnings of programs and what follows, one to a row, with what answers to them grow from: {"code",
    "learnt", "document", "start", "row"}.

    start: int64[B,length], the question in symbols, IGNORE where an answer is to be written; row: the fields of each row by name.

    Args:
        split, codec, length: as those of conversations.
        check: by which of data/checks.py an answer is right.
    """

    def __init__(self, split: Split, codec: Conversing, length: int, check: str):
        super().__init__(split if "source" in split.columns else continued(split), codec, length, packed=False)
        self.check = check

    def rows(self, index: Tensor) -> Batch:
        """The rows at int64[B] positions."""
        found = super().rows(index)
        talks = [self.talks[i] for i in index.tolist()]
        start = torch.full_like(found["code"], IGNORE)
        for line, symbols in zip(start, asked(self.codec, questions(talks)[0]), strict=True):
            line[: len(symbols)] = torch.tensor(symbols)
        return {**found, "start": start, "row": [self.fields(i) for i in index.tolist()]}

    def fields(self, row: int) -> dict[str, Any]:
        """What a check may look at: the row's own fields."""
        place = self.written[row].place
        return {name: column[place] for name, column in self.columns.items()}


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
