"""Rows with their codes beside them, encoded once: for a model of what another one's codec gives. Knows no codec."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from maquette.contracts import Batch
from maquette.data.core import Data, Split

BATCH = 256  # rows encoded at a time, the same at every run: codes near a border between symbols do not move


class Cached(Split):
    """The rows of another split, each with "code" beside its fields. Encoded when first asked for.

    Args:
        rows: the split.
        field: what is encoded.
        encode: a batch of it -> codes, on any device.
    """

    def __init__(self, rows: Split, field: str, encode: Callable[[Any], Tensor]):
        super().__init__(rows.columns, rows.levels)
        self.field, self.encode = field, encode

    @cached_property
    def codes(self) -> Tensor:
        """Every row's code, on the CPU."""
        places = torch.arange(len(self)).split(BATCH)
        with torch.no_grad():
            return torch.cat([self.encode(super(Cached, self).rows(part)[self.field]).cpu() for part in places])

    def rows(self, index: Tensor) -> Batch:
        """The rows at int64[B] positions."""
        return {**super().rows(index), "code": self.codes[index]}


def cached(data: Data, field: str, encode: Callable[[Any], Tensor]) -> Data:
    """The same data and facts, each row with its code."""
    return Data(data.facts, lambda: {name: Cached(split, field, encode) for name, split in data.splits.items()})
