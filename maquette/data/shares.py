"""Rows into a training and a held-out split, by what they are and not by where they lie. Knows digests, no source."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from maquette.data.errors import DataError

HELD = 10  # held-out share, in percent
RULE = f"by content: held out where the first 32 bits of SHA-1 modulo 100 are below {HELD}; order by SHA-1"


def held_out(digest: bytes) -> bool:
    """Whether content with this SHA-1 is held out."""
    return int.from_bytes(digest[:4], "big") % 100 < HELD


def sha1(raw: bytes) -> bytes:
    return hashlib.sha1(raw, usedforsecurity=False).digest()


@dataclass(frozen=True)
class Division:
    """Positions of the rows on either side, the rule that put them there, and what a user should know of it."""

    train: list[int]
    held: list[int]
    rule: str
    notes: tuple[str, ...]


def divide(content: list[bytes], whole: list[bytes], parts: list[str], place: str) -> Division:
    """Drop exact duplicates, then part the rows: as the user's folders say, else by their content.

    Args:
        content: a digest per row of what must never lie on both sides (an image without its label).
        whole: a digest per row of everything in it; rows with the same one are duplicates.
        parts: "train" or "held" per row where the user's folders say so, else "".
        place: where the data is, for messages.

    Raises:
        DataError: fewer than two different rows, or a split that the user made is empty.
    """
    first = {(part, digest): i for i, (part, digest) in reversed(list(enumerate(zip(parts, whole, strict=True))))}
    rows = sorted(first.values(), key=lambda i: (content[i], i))  # by content: a first few rows are of every class
    dropped = len(whole) - len(rows)
    notes = [f"{dropped} exact duplicate{'s' * (dropped > 1)} dropped"] if dropped else []
    if any(parts):
        train, held = ([i for i in rows if parts[i] == part] for part in ("train", "held"))
        for part, side in (("training", train), ("held-out", held)):
            if not side:
                raise DataError(f"the {part} folder in {place} has nothing in it that can be used")
        known = {content[i] for i in train}
        leaked = sum(content[i] in known for i in held)
        if leaked:
            notes.append(f"{leaked} of {len(held)} held-out rows are also training rows: scores on them flatter the model")
        return Division(train, held, "the data's own", tuple(notes))
    if len({content[i] for i in rows}) < 2:
        raise DataError(f"{place} has {len(rows)} row to learn from; at least two different ones are needed, one to hold out")
    held = [i for i in rows if held_out(content[i])]
    if not held or len(held) == len(rows):
        alone = content[rows[0]]  # too few for the rule: the row (and its likes) with the lowest digest is held out
        held = [i for i in rows if content[i] == alone]
        notes.append(f"only {len(rows)} rows: {len(held)} held out, the one with the lowest SHA-1")
    away = set(held)
    return Division([i for i in rows if i not in away], held, RULE, tuple(notes))
