"""A few pictures of one thing, all of them learnt from; among them, if wanted, pictures that a model draws of its kind.

Knows rows and captions; neither the model that draws nor the one that learns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from maquette.contracts import Batch
from maquette.data.core import Column, Data, Facts, Split, recalled
from maquette.data.errors import DataError
from maquette.data.listing import choose, walk
from maquette.data.opening import open_data

RULE = "none held out: every picture is learnt from, and is what samples are held against"
LEAST = 64  # rows, so that a batch is not cut to the number of pictures


class Drawn(Split):
    """Rows that a model draws when first asked for, every one under the same caption.

    Args:
        draw: how many -> the batch, with "image" and "code".
        count: of the rows.
        said: their caption.
    """

    def __init__(self, draw: Callable[[int], Batch], count: int, said: str, levels: int):
        super().__init__({"text": [said] * count}, levels)
        self.draw, self.count = draw, count

    @cached_property
    def drawn(self) -> dict[str, Tensor]:
        batch = self.draw(self.count)
        return {name: batch[name].cpu() for name in ("image", "code")}

    def rows(self, index: Tensor) -> Batch:
        return {**super().rows(index), **{name: column[index] for name, column in self.drawn.items()}}


class Mixed(Split):
    """Splits one behind another as one, each so many times over: how often is by how much each counts.

    Args:
        parts: (rows, times).
        fields: what a row has; every part must have it.
    """

    def __init__(self, parts: Sequence[tuple[Split, int]], fields: tuple[str, ...]):
        texts: Column = [text for split, times in parts for text in list(split.columns["text"]) * times]
        super().__init__({"text": texts}, parts[0][0].levels)
        self.parts, self.fields = [split for split, _ in parts], fields
        ends = torch.tensor([len(split) * times for split, times in parts], device="cpu").cumsum(0)
        self.ends, self.starts = ends, torch.cat([ends.new_zeros(1), ends[:-1]])

    def rows(self, index: Tensor) -> Batch:
        part = torch.searchsorted(self.ends, index, right=True)
        places = [(part == i).nonzero()[:, 0] for i in range(len(self.parts))]
        found = [
            split.rows((index[at] - start) % len(split))
            for split, at, start in zip(self.parts, places, self.starts.tolist(), strict=True)
            if len(at)
        ]
        back = torch.cat(places).argsort()
        return {name: _ordered([batch[name] for batch in found], back) for name in self.fields}


def _ordered(parts: list[Column], back: Tensor) -> Column:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)[back]  # type: ignore[arg-type]
    together = [item for part in parts for item in part]
    return [together[i] for i in back.tolist()]


def few(folder: str, shape: tuple[int, ...], levels: int, said: str, kind: str) -> Data:
    """The pictures of a folder, brought to a shape, each captioned `said`, and `kind` beside it; no split, no class, no label.

    Raises:
        DataError: no pictures in it, or colours where the shape has none.
    """
    channels, high, wide = shape
    if high != wide:
        raise DataError(f"pictures of a folder are brought to squares, and {high} x {wide} is wanted")
    path = Path(folder).expanduser()
    if recalled() is None and path.is_dir() and (held := choose(walk(path), path)[0]) in ("text", "jsonl"):
        raise DataError(f"{folder} holds {held}, and no pictures; a few pictures of one thing are wanted, .png or .jpg")
    opened = open_data(folder, high)
    facts = opened.facts
    if facts.shape[0] > channels:
        raise DataError(f"{folder} has pictures in colours, and grey ones are wanted")
    if recalled() is None:
        rows = sum(facts.rows.values())
        notes = tuple(note for note in facts.notes if "held out" not in note)
        facts = _alone(facts, rows, shape, levels, notes)

    def read() -> dict[str, Split]:
        parts = [cast(Tensor, opened.splits[split].columns["image"]) for split in ("train", "held")]
        return _both(torch.cat(parts), levels, channels, said, kind)

    return Data(facts, read)


def _alone(facts: Facts, rows: int, shape: tuple[int, ...], levels: int, notes: tuple[str, ...]) -> Facts:
    known: dict[str, Any] = {"shape": tuple(shape), "levels": levels, "captions": True, "few": True}
    return replace(facts, rows={"train": rows, "held": rows}, split=RULE, notes=notes, classes=(), shares=(), factors={}, **known)


def _both(pixels: Tensor, levels: int, channels: int, said: str, kind: str) -> dict[str, Split]:
    """Pixels uint8[N,C,H,W] of 256 levels as a training and a held-out split that are one and the same."""
    pixels = (pixels.float() * (levels - 1) / 255).round().to(torch.uint8).expand(-1, channels, -1, -1).contiguous()
    rows = Split({"image": pixels, "text": [said] * len(pixels), "kind": [kind] * len(pixels)}, levels)
    return {"train": rows, "held": rows}


def repeated(own: Split, others: Split | None, weight: float, fields: tuple[str, ...]) -> Mixed:
    """Rows again and again, and others among them that count `weight` times as much in all."""
    if others is None:
        return Mixed([(own, max(1, -(-LEAST // len(own))))], fields)
    return Mixed([(own, max(1, round(len(others) / (weight * len(own))))), (others, 1)], fields)


def needed(count: int, weight: float, pictures: int) -> int:
    """Others that are wanted beside so many pictures, for their weight to be kept: `pictures`, or more where it is great."""
    return max(pictures, math.ceil(weight * count))
