"""What is said when data cannot be used: the value, what is allowed, and the nearest match. Knows no source."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class DataError(ValueError):
    """Data that cannot be used, with what the user can do about it."""


class Skip(Exception):
    """One file or row that cannot be used, with the reason. The rest of the data goes on without it."""


def nearest(value: str, allowed: Iterable[str]) -> str:
    """' Nearest is ...' for a message, or '' where nothing is near."""
    near = difflib.get_close_matches(value, list(allowed), n=1, cutoff=0.5)
    return f" Nearest is {near[0]!r}." if near else ""


def refuse_mostly_bad(bad: Sequence[tuple[str, str]], total: int, what: str, place: str) -> None:
    """Raise when more than half of `total` things were bad, naming the first few."""
    if 2 * len(bad) > total:
        some = "".join(f"\n  {name}: {reason}" for name, reason in bad[:5])
        rest = f"\n  ... and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(f"{len(bad)} of {total} {what} in {place} cannot be used, more than half:{some}{rest}")
