"""Options that would do nothing where they stand: refused when a run is begun, and not left out without a word.

Knows defaults by the catalogue, which passes this file over; not what an option is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maquette.data.core import recalled
from maquette.recipes import catalogue


def refuse_idle(recipe: str, given: Mapping[str, Any], names: str, where: str) -> None:
    """Refuse what is said of options that are not heard. A run that is opened again keeps what it was begun with.

    Args:
        given: what the recipe was called with, by name.
        names: of the options that do nothing, white space between.
        where: they do nothing: "without a run".

    Raises:
        ValueError: one of them is not as it is by itself.
    """
    if recalled() is not None:
        return
    usual = catalogue()[recipe].arguments
    for name in names.split():
        if given[name] != usual[name]:
            raise ValueError(f"{name} is {given[name]!r}, which does nothing in {recipe} {where}; leave it out")
