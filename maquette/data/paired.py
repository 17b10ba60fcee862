"""Pairs of texts, one to be made from the other, in two splits that share neither. Knows rows and facts, no source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from maquette.data.core import Column, Data, Facts, text_data
from maquette.data.shares import held_out, sha1


def paired(about: Facts, rows: Sequence[tuple[str, str, str]]) -> Data:
    """Data of (what decides on the side, source, text). Each pair once; no held-out row shares a column with training ones."""
    once = list(dict.fromkeys(rows))
    sides = [held_out(sha1(key.encode())) for key, _, _ in once]
    train = list(dict.fromkeys((source, text) for (_, source, text), held in zip(once, sides, strict=True) if not held))
    known = {source for source, _ in train}, {text for _, text in train}
    kept = dict.fromkeys((source, text) for (_, source, text), held in zip(once, sides, strict=True) if held)
    held = [(source, text) for source, text in kept if source not in known[0] and text not in known[1]]
    columns: dict[str, dict[str, Column]] = {
        part: {"source": [source for source, _ in some], "text": [text for _, text in some]}
        for part, some in (("train", train), ("held", held))
    }
    lost = len(kept) - len(held)
    notes = (f"{lost} held-out rows whose source or text is a training row's too are left out",) if lost else ()
    return text_data(replace(about, notes=(*about.notes, *notes)), columns)
