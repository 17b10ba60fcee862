"""Two image sets as one: rows of the second, each beside a row of the first that has nothing to do with it.

Knows columns and facts; not which sets, nor who learns to turn one into the other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from maquette.data.core import Column, Data, Split, image_data
from maquette.data.errors import DataError
from maquette.streams import Streams, mix

BETWEEN = ":"  # "font_digits:digits": from the first to the second


def beside(source: Data, target: Data) -> Data:
    """Images of `target`, with their other columns; beside each, as "source", an image of `source`, with its label if any.

    The shorter set is gone through again until the longer one ends; the sources come in an order of their own.

    Raises:
        DataError: one holds no images, or they differ in shape.
    """
    for data in (source, target):
        if data.facts.field != "image":
            raise DataError(f"both sides of '{BETWEEN}' must be images, and {data.facts.name!r} holds {data.facts.field}")
    one, other = source.facts, target.facts
    if one.shape != other.shape:
        shapes = " and ".join(f"{f.name!r} of {f.shape[2]}x{f.shape[1]}, {f.shape[0]} channels" for f in (one, other))
        raise DataError(f"the two sets differ: {shapes}; --size {min(*one.shape[1:], *other.shape[1:])} brings sides to one size")
    columns: dict[str, dict[str, Column]] = {}
    for split, rows in target.splits.items():
        given = source.splits[split]
        count = max(len(rows), len(given))
        again, turn = (torch.from_numpy(np.arange(count) % len(some)) for some in (rows, given))
        shuffled = Streams.of(mix(0xBE51DE, len(given)), 1).rank(len(given))[0][turn]
        columns[split] = {name: _taken(column, again) for name, column in rows.columns.items()}
        columns[split]["source"] = _levels(given, shuffled, other.levels)
        if "label" in given.columns:
            columns[split]["source_label"] = _taken(given.columns["label"], shuffled)
    facts = replace(
        other,
        name=f"{one.name}{BETWEEN}{other.name}",
        licence=f"{one.licence}; {other.licence}",
        attribution=f"{one.attribution}; {other.attribution}",
        split=f"{one.name}: {one.split}; {other.name}: {other.split}",
        notes=(*one.notes, *other.notes),
        skipped=(*one.skipped, *other.skipped),
    )
    return image_data(facts, columns)


def _taken(column: Column, rows: Tensor) -> Column:
    return column[rows] if isinstance(column, Tensor) else [column[i] for i in rows.tolist()]


def _levels(split: Split, rows: Tensor, levels: int) -> Tensor:
    """The images of these rows on another number of grey levels: uint8[N,C,H,W]."""
    pixels = split.columns["image"]
    assert isinstance(pixels, Tensor)
    if split.levels == levels:
        return pixels[rows]
    return (pixels[rows].float() * (levels - 1) / (split.levels - 1)).round().to(torch.uint8)
