"""Rows of which somebody else writes the rest: as many as are asked for, made once. Knows what is written by its fields alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Batch
from maquette.data.core import Data, Split

BATCH = 128  # rows written at a time, the same at every run
Write = Callable[[Batch, Tensor], dict[str, Tensor]]  # rows and their places int64[B] -> code, learnt and document, [B,T] each


class Rewritten(Split):
    """Rows {"code", "learnt", "document"}, [B,T] each, of beginnings of another split's and what was written behind them.

    Args:
        rows: the split; the rows that are written on are evenly spread over it.
        count: how many are, at most all.
        write: who writes, when the first row is asked for.
        share: of the rows that are the split's own, and any of them.
    """

    def __init__(self, rows: Split, count: int, write: Write, share: float = 0.0):
        super().__init__(rows.columns, rows.levels)
        self.own, self.count, self.write, self.share = rows, min(count, len(rows)), write, share

    @cached_property
    def written(self) -> dict[str, Tensor]:
        """All that was."""
        places = torch.linspace(0, len(self.own) - 1, self.count).round().long()
        parts = [self.write(self.own.rows(some), some) for some in places.split(BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def __len__(self) -> int:
        return self.count if not self.share else max(self.count, len(self.own))

    def rows(self, index: Tensor) -> Batch:
        """The rows at int64[B] positions."""
        found = {name: column[index % self.count] for name, column in self.written.items()}
        kept = (index * 0x9E3779B1 % (1 << 32)).double() / (1 << 32) < self.share  # evenly, whatever the count
        if bool(kept.any()):
            own = self.own.rows(index[kept] % len(self.own))
            plain = {"learnt": own["code"] != IGNORE, "document": torch.zeros_like(own["code"])}
            for name, column in found.items():
                column[kept] = own[name] if name in own else plain[name]
        return found


def rewritten(data: Data, count: int, write: Write, share: float = 0.0) -> Data:
    """The same data, what is to be learnt of its training rows written anew."""
    return Data(data.facts, lambda: {**data.splits, "train": Rewritten(data.splits["train"], count, write, share)})
