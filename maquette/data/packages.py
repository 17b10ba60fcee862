"""Built-in text with kinds: what functions and classes of well-known packages say of themselves, and which package it is.

Knows where installed packages keep their source; nothing of them is imported or run.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from maquette.data.cache import cached
from maquette.data.core import Column, Data, Facts, Split, text_data
from maquette.data.errors import DataError
from maquette.data.shares import HELD, held_out, sha1

PACKAGES = ("numpy", "scipy", "sklearn", "matplotlib", "networkx", "rich", "PIL")
FILES = 150  # of a package at most, evenly spread: reading them is what takes time
_ASIDE = {"tests", "test", "testing", "_vendor", "externals"}
LEAST, MOST = 80, 600  # characters: shorter ones are labels; of longer ones the beginning
_NAMES = re.compile(
    r"\b(numpy|np|scipy|sklearn|scikit|matplotlib|mpl|plt|pyplot|torch|pytorch|rich|PIL|pillow|networkx|nx)\b", re.I
)


def packages() -> Data:
    """Docstrings of seven installed packages, the package each one's kind; every word that names a package is taken out."""
    places = {name: place_of(name) for name in PACKAGES}
    key = hashlib.sha256(f"2 {LEAST} {MOST} {FILES}".encode())
    for name, place in places.items():
        key.update(f"{name} {version_of(name) if place else ''}\n".encode())
    found = json.loads(cached("packages", key.hexdigest(), lambda: json.dumps(_docstrings(places)).encode()))
    kinds = tuple(name for name in PACKAGES if any(package == name for package, _, _ in found))
    if len(kinds) < 2:
        raise DataError("fewer than two of the packages whose docstrings this reads are installed: " + ", ".join(PACKAGES))
    columns: dict[str, dict[str, Column]] = {}
    for part, held in (("train", False), ("held", True)):
        rows = [(text, package) for package, path, text in found if held_out(sha1(path.encode())) is held]
        rows.sort(key=lambda row: sha1(row[0].encode()))  # kinds mixed, whatever the order on disk
        label = torch.tensor([kinds.index(package) for _, package in rows])
        columns[part] = {"text": [text for text, _ in rows], "label": label}
    return _of(kinds, columns)


_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow"}


def _of(kinds: tuple[str, ...], columns: dict[str, dict[str, Column]]) -> Data:
    about = Facts(
        name="packages",
        field="text",
        kind="real",
        licence="BSD-3-Clause and its family",
        attribution=f"the authors of {', '.join(kinds)}",
        hash="",
        rows={},
        classes=kinds,
        split=f"by file: held out where the first 32 bits of the path's SHA-1 modulo 100 are below {HELD}",
        notes=("differs between versions of the packages",),
    )
    return text_data(about, columns)


def place_of(name: str) -> Path | None:
    """Where a package's source lies, or None where it is not installed."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(found.origin).parent if found is not None and found.origin else None


def version_of(name: str) -> str:
    """An installed package's version."""
    return importlib.metadata.version(_DISTRIBUTIONS.get(name, name))


def _docstrings(places: dict[str, Path | None]) -> list[tuple[str, str, str]]:
    """(package, file, docstring) of every function and class, each text once; a text that two packages have is neither's."""
    found: dict[str, tuple[str, str] | None] = {}
    for name, place in places.items():
        files = [path for path in sorted(place.rglob("*.py")) if not _ASIDE & set(path.parts)] if place is not None else []
        for path in files[:: max(1, -(-len(files) // FILES))]:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # old escapes in other people's strings
                    tree = ast.parse(path.read_text())
            except (SyntaxError, UnicodeDecodeError, OSError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    said = _NAMES.sub("it", inspect.cleandoc(ast.get_docstring(node, clean=False) or ""))[:MOST]
                    if len(said) >= LEAST:
                        once = said not in found or found[said] == (name, str(path))
                        found[said] = (name, f"{name}/{path.relative_to(place)}") if once else None  # type: ignore[arg-type]
    return [(*origin, text) for text, origin in found.items() if origin is not None]


def labelled(data: Data, rows: int) -> Data:
    """The same data with so many training rows, as many of each kind as can be; 0 = all.

    Raises:
        ValueError: fewer rows than kinds.
    """
    if not rows:
        return data
    kinds = len(data.facts.classes)
    if rows < kinds:
        raise ValueError(f"rows is {rows}; there must be one of each of the {kinds} kinds at least, or 0 for all")

    def read() -> dict[str, Split]:
        label = data.train.columns["label"]
        assert isinstance(label, torch.Tensor)
        turn = torch.zeros(len(label), dtype=torch.int64)
        for kind in range(kinds):
            of = (label == kind).nonzero()[:, 0]
            turn[of] = torch.arange(len(of))
        some = (turn * kinds + label).argsort()[:rows]
        columns: dict[str, Column] = {
            name: column[some] if isinstance(column, torch.Tensor) else [column[i] for i in some.tolist()]
            for name, column in data.train.columns.items()
        }
        return {**data.splits, "train": Split(columns)}

    return Data(replace(data.facts, rows={**data.facts.rows, "train": rows}), read)
