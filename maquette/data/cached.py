"""Rows with what another model makes of them beside them, made once: a codec's codes, a picture's vector. Knows no model."""

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
    """The rows of another split, each with `name` beside its fields. Encoded when first asked for.

    Args:
        rows: the split.
        field: what is encoded.
        encode: a batch of it -> codes, on any device.
        name: what they are called.
    """

    def __init__(self, rows: Split, field: str, encode: Callable[[Any], Tensor], name: str = "code"):
        super().__init__(rows.columns, rows.levels)
        self.field, self.encode, self.name = field, encode, name

    @cached_property
    def codes(self) -> Tensor:
        """Every row's code, on the CPU."""
        places = torch.arange(len(self)).split(BATCH)
        with torch.no_grad():
            return torch.cat([self.encode(super(Cached, self).rows(part)[self.field]).cpu() for part in places])

    def rows(self, index: Tensor) -> Batch:
        """The rows at int64[B] positions."""
        return {**super().rows(index), self.name: self.codes[index]}


def cached(data: Data, field: str, encode: Callable[[Any], Tensor], name: str = "code") -> Data:
    """The same data and facts, each row with its code, called `name`."""
    return Data(data.facts, lambda: {part: Cached(split, field, encode, name) for part, split in data.splits.items()})
