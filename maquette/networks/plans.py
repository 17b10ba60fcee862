"""What the readers of published configurations share. Knows names and values, no network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any


def refuse(
    config: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]], network: str, known: Collection[str] | None = None
) -> None:
    """Nothing, if a configuration asks for no more than a network has.

    Args:
        config: of the reference, as its config.json says it.
        only: the values that a name may have.
        network: what to call it.
        known: names that may have any value; None = every other name may. Names that begin with _ are the reference's own notes.

    Raises:
        ValueError: a value, or a name, that is not built.
    """
    for name, allowed in only.items():
        if name in config and config[name] not in allowed:
            raise ValueError(f"{name} is {config[name]!r}; this {network} has {' or '.join(map(repr, allowed))} only")
    for name in config:
        if known is not None and name not in only and name not in known and not name.startswith("_"):
            near = get_close_matches(name, [*known, *only], 1)
            meant = f"; nearest is {near[0]}" if near else ""
            raise ValueError(f"{name} is {config[name]!r}, which this {network} does not know{meant}")
