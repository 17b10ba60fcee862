"""One function per system; the folder is the registry. The catalogue is read from source, so listing needs no torch."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


def nearest(given: str, allowed: list[str]) -> str:
    """The allowed name most like the one given, or ''."""
    return next(iter(difflib.get_close_matches(given, allowed, 1, 0.4)), "")


class UnknownName(ValueError):
    """A name or value that is not one of those allowed; the message carries the nearest."""

    def __init__(self, what: str, given: object, allowed: list[str]):
        near = nearest(str(given), allowed)
        hint = f" Did you mean '{near}'?" if near else ""
        super().__init__(f"unknown {what} '{given}'.{hint} Allowed: {', '.join(allowed)}.")


@dataclass(frozen=True)
class Listed:
    """A recipe as its source shows it."""

    name: str
    module: str
    summary: str
    arguments: dict[str, Any]  # name -> default


@cache
def catalogue() -> dict[str, Listed]:
    """Every public recipe of this folder, by name."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and _returns_experiment(node):
                named = [*node.args.args, *node.args.kwonlyargs]
                values = [*node.args.defaults, *[d for d in node.args.kw_defaults if d is not None]]
                arguments = {arg.arg: ast.literal_eval(value) for arg, value in zip(named, values, strict=True)}
                summary = (ast.get_docstring(node) or "").split("\n")[0]
                found[node.name] = Listed(node.name, f"maquette.recipes.{path.stem}", summary, arguments)
    return dict(sorted(found.items()))


def _returns_experiment(node: ast.FunctionDef) -> bool:
    return isinstance(node.returns, ast.Name) and node.returns.id == "Experiment"


def named(name: str) -> str:
    """A recipe's name as its source has it: vqgan-prior is vqgan_prior. Import paths stay as they are."""
    plain = name.replace("-", "_")
    return plain if plain in catalogue() else name


def find(name: str) -> Callable[..., Any]:
    """The recipe called `name`: one of the catalogue, or an import path of your own, `my_pkg.recipes:fn`.

    Raises:
        UnknownName: no such recipe.
        ValueError: an import path that leads nowhere, or to something that is no recipe.
    """
    if ":" in name:
        module, _, function = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"recipe '{name}' cannot be imported: {error}") from None
        said = getattr(found, "__annotations__", {}).get("return")
        if getattr(said, "__name__", said) != "Experiment":
            raise ValueError(f"'{name}' is no recipe: a recipe is a function that says `-> Experiment`")
        return found
    name = named(name)
    if name not in catalogue():
        raise UnknownName("recipe", name, list(catalogue()))
    return getattr(importlib.import_module(catalogue()[name].module), name)


def signature(recipe: Callable[..., Any]) -> dict[str, Any]:
    """A recipe's arguments and their defaults."""
    return {p.name: p.default for p in inspect.signature(recipe).parameters.values()}


def check(name: str, given: dict[str, Any], also: dict[str, Any] | None = None) -> dict[str, Any]:
    """Arguments for a recipe, each of its default's type; `also` are further names allowed, with their defaults.

    Raises:
        UnknownName: an option that neither the recipe nor `also` has.
        ValueError: a value that is not of the option's type; a recipe with an argument that has no scalar default.
    """
    own = signature(find(name))
    for key, value in own.items():
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"argument '{key}' of recipe {name} has no default that is a number, a text or a truth value")
    allowed = {**(also or {}), **own}
    checked = {}
    for key, value in given.items():
        if key not in allowed:
            raise UnknownName(f"option of recipe {name}", key, list(allowed))
        checked[key] = coerce(key, value, allowed[key])
    return checked


def coerce(key: str, value: Any, like: Any) -> Any:
    """`value`, perhaps a command line's text, as the type of the default `like`.

    Raises:
        ValueError: it cannot be read so.
    """
    kind = type(like)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]
        if kind is int and isinstance(value, float) and value != int(value):
            raise ValueError
        if kind in (int, float, str) and not isinstance(value, bool):
            return kind(value)
        if kind is tuple and all(isinstance(part, str) for part in like) and isinstance(value, str | list | tuple):  # any number
            return (value,) if isinstance(value, str) else tuple(str(part) for part in value)
        if kind is dict:
            found = json.loads(value)
            if isinstance(found, dict):
                return found
        if kind is tuple:
            parts = tuple(type(like[0])(part) for part in (value.split(",") if isinstance(value, str) else value))
            if len(parts) == len(like):
                return parts
    except (KeyError, ValueError, TypeError, OverflowError):
        pass
    raise ValueError(f"option '{key}' takes {kind.__name__}, got '{value}' (default {like!r})")
