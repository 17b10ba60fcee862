"""Captions of training rows: full ones and terse ones told apart, or all written anew. Knows pictures' bytes; not who writes.

Which row is in a share follows from its picture alone, so that it is the same in every run and under every caption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

from maquette.data.cached import BATCH
from maquette.data.core import Column, Data, Split, noted
from maquette.data.errors import DataError
from maquette.data.shares import sha1

Write = Callable[[Tensor], Sequence[str]]  # pictures float[B,C,H,W] in 0..1 -> a caption each
CAPTIONED, RETOLD = 12, 8  # first byte of a picture's SHA-1 that decides on either; the data's own rules go by earlier ones


def chances(rows: Split, first: int) -> Tensor:
    """A number in 0..1 for each row's picture, from four bytes of its SHA-1 and nothing else: float64[N]."""
    digests = [sha1(image.contiguous().numpy().tobytes()) for image in _images(rows).cpu()]
    return torch.tensor([int.from_bytes(d[first : first + 4], "big") / 2**32 for d in digests], dtype=torch.float64)


def _images(rows: Split) -> Tensor:
    images = rows.columns["image"]
    assert isinstance(images, Tensor)
    return images


def graded(data: Data, share: float) -> Data:
    """Images, captions and "full" float[B,1]: 1 of rows whose captions are full, 0 of the others. Held-out rows stay.

    Data with a column "full_text" have a full caption where that is not empty, and a terse one, "text", elsewhere; of other data
    every caption is full. Rows with full captions come again and again, until they are a quarter as many as those without: all
    that is in a picture is learned from the many, and from the few how to say all of it.

    Args:
        share: of the full captions that are learned from, chosen by their pictures; the other rows keep their terse ones, or
            are left out where they have none.

    Raises:
        ValueError: a share that is not above 0, up to 1.
        DataError: when rows are asked for: none with a full caption is in the share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must be above 0, up to 1 (all full captions)")

    def read() -> dict[str, Split]:
        train = data.train
        text = list(train.columns["text"])
        known = train.columns.get("full_text", text)
        chosen = (chances(train, CAPTIONED) < share).tolist()
        full = [i for i, (said, kept) in enumerate(zip(known, chosen, strict=True)) if said and kept]
        others = sorted({*range(len(text))} - {*full}) if "full_text" in train.columns else []
        if not full:
            raise DataError(f"a share of {share:g} of {len(text)} training rows holds no full caption; a larger one may")
        again = [full[i % len(full)] for i in range(max(len(full), len(others) // 4))]
        columns: dict[str, Column] = {
            "image": _images(train)[torch.tensor(again + others)],
            "text": [*(known[i] for i in again), *(text[i] for i in others)],
            "full": (torch.arange(len(again) + len(others)) < len(again)).float()[:, None],
        }
        return {**data.splits, "train": Split(columns, train.levels)}

    return Data(
        noted(data, f"of the full captions a share of {share:g} is learned from").facts if share < 1 else data.facts, read
    )


def retold(data: Data, write: Write, mix: float, by: str) -> Data:
    """The same data, a share of its training captions written anew from the rows' pictures. Held-out rows stay as they are.

    Where the paper (Betker 2023, sec. 3.2) draws which caption is told each time a row comes up, here each row has one.

    Args:
        write: pictures -> captions; asked once for each row, when the first caption is.
        mix: share of captions written anew.
        by: who writes, for a note.

    Raises:
        ValueError: a share that is not in 0..1.
    """
    if not 0 <= mix <= 1:
        raise ValueError(f"mix is {mix}; it is the share of captions that are written anew, 0 .. 1 (all)")

    def read() -> dict[str, Split]:
        train = data.train
        return {**data.splits, "train": Split({**train.columns, "text": Retold(train, write, mix)}, train.levels)}

    facts = replace(
        data.facts, notes=noted(data, f"a share of {mix:g} of the training captions is as {by} writes them").facts.notes
    )
    return Data(facts, read)


class Retold(Sequence[str]):
    """A column of captions, most of them written anew. Nothing is written before the first is looked at.

    Args:
        rows: the split, with its own captions.
        write, mix: as `retold` has them.
    """

    def __init__(self, rows: Split, write: Write, mix: float):
        self.split, self.write, self.mix = rows, write, mix

    @cached_property
    def texts(self) -> list[str]:
        """Every row's caption."""
        texts = list(self.split.columns["text"])
        for part in self.places.split(BATCH):
            for i, text in zip(part.tolist(), self.write(self.split.rows(part)["image"]), strict=True):
                texts[i] = text
        return texts

    @cached_property
    def places(self) -> Tensor:
        """The rows whose captions are written anew: int64[M]."""
        return (chances(self.split, RETOLD) < self.mix).nonzero()[:, 0]

    def __len__(self) -> int:
        return len(self.split)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        return self.texts[at]
