"""The dials of a sampler: what a user may turn, by name, and another sampler in its place. Knows no family."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from maquette import recipes, samplers
from maquette.contracts import Dials, Sampler
from maquette.samplers.writing import Writer


def turned(sampler: Sampler | None, dials: dict[str, Any]) -> Sampler | None:
    """A sampler with some of its dials turned; None of a system that draws nothing.

    The dial "sampler" puts another in its place, with its dials as they were: {"sampler": "beam", "beams": 8}.

    Raises:
        UnknownName: it has no such dial, or there is no such sampler.
        ValueError: a value it does not take.
    """
    if "sampler" in dials:
        sampler, dials = another(sampler, str(dials["sampler"])), {k: v for k, v in dials.items() if k != "sampler"}
    now = dials_of(sampler)
    for key in dials:
        if key not in now:
            raise recipes.UnknownName(f"dial of {described(sampler)['name']}", key, list(now))
    return _turned(sampler, {k: recipes.coerce(k, v, now[k]) for k, v in dials.items()}) if sampler is not None else None


def _turned(part: Any, dials: dict[str, Any]) -> Any:
    """A sampler, or a part of one, with the dials turned that it or its parts have."""
    parts = {f.name: getattr(part, f.name) for f in fields(part)}
    changed = {name: dials[name] for name in parts if name in dials}
    changed |= {
        name: _turned(own, dials) for name, own in parts.items() if isinstance(own, Dials) and dials_of(own).keys() & dials
    }
    return replace(part, **changed) if changed else part


def dials_of(sampler: Any) -> dict[str, Any]:
    """What a user may turn: a sampler's scalar fields, and all that `Dials` have; {} of a system that draws nothing."""
    if sampler is None:
        return {}
    kinds: tuple[type, ...] = (int, float, str)
    kinds = (*kinds, tuple, Mapping) if isinstance(sampler, Dials) else kinds
    found: dict[str, Any] = {}
    for f in fields(sampler):
        value = getattr(sampler, f.name)
        found |= dials_of(value) if isinstance(value, Dials) else {f.name: value} if isinstance(value, kinds) else {}
    return found


def another(sampler: Sampler | None, name: str) -> Sampler:
    """The sampler of symbols of this name, in the place of another: "beam", "contrastive", "best_of", "speculative", ...

    Raises:
        UnknownName: there is none.
        ValueError: what is to be replaced writes no symbols.
    """
    if not isinstance(sampler, Writer):
        raise ValueError(
            f"sampler is {name}; only one that writes symbols gives way to another, not {described(sampler)['name']}"
        )
    for module in pkgutil.iter_modules(samplers.__path__):
        importlib.import_module(f"{samplers.__name__}.{module.name}")
    kinds = {re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower(): kind for kind in Writer.__subclasses__()}
    if name.replace("-", "_") not in kinds:
        raise recipes.UnknownName("sampler", name, sorted(kinds))
    made = kinds[name.replace("-", "_")]()
    return _turned(made, {key: value for key, value in dials_of(sampler).items() if key in dials_of(made)})


def described(sampler: Sampler | None) -> dict[str, Any]:
    """A sampler's name and dials, for a record; named "none" where a system draws nothing."""
    return {"name": "none" if sampler is None else type(sampler).__name__, **dials_of(sampler)}
