"""One door to all data: a built-in's name or a path of the user's own. Knows the built-ins, and which reader a path needs."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from maquette.data.beside import BETWEEN, beside
from maquette.data.builtin import digits
from maquette.data.catalogs import translations
from maquette.data.characters import characters
from maquette.data.chores import chores
from maquette.data.core import Data, Facts, Split, recalled
from maquette.data.dialogues import dialogues
from maquette.data.docstrings import apiqa, docstrings, documented, prose, summaries
from maquette.data.emoji import emoji
from maquette.data.errors import DataError, nearest
from maquette.data.folder import read_own
from maquette.data.fonts import font_digits, glyphs, glyphs1
from maquette.data.functions import functions
from maquette.data.gradeable import gradeable
from maquette.data.images import resized
from maquette.data.instructions import instructions
from maquette.data.listing import signature
from maquette.data.localized import dates, terms
from maquette.data.manners import manners
from maquette.data.mixtures import grid, ring, spiral
from maquette.data.packages import packages
from maquette.data.pairs import font_digits8, serif_glyphs
from maquette.data.principles import principles
from maquette.data.python_source import stdlib, stdlib_prose
from maquette.data.reasoning import countdown, sums
from maquette.data.repairs import repairs
from maquette.data.scenes import scenes, scenes_terse
from maquette.data.sprites import sprites
from maquette.data.tasks import tasks
from maquette.data.tested import tested

BUILTINS: tuple[Callable[..., Data], ...] = (  # one that takes a size draws at it
    digits,
    glyphs,
    glyphs1,
    font_digits,
    font_digits8,
    serif_glyphs,
    sprites,
    scenes,
    scenes_terse,
    characters,
    emoji,
    grid,
    ring,
    spiral,
    stdlib,
    stdlib_prose,
    docstrings,
    prose,
    packages,
    tasks,
    documented,
    gradeable,
    summaries,
    apiqa,
    functions,
    repairs,
    tested,
    dates,
    terms,
    translations,
    chores,
    instructions,
    manners,
    dialogues,
    principles,
    sums,
    countdown,
)
LARGEST = 2048  # pixels a side


def corpora() -> dict[str, str]:
    """Built-in name -> what it is, in one sentence."""
    return {source.__name__: (source.__doc__ or "").split("\n")[0] for source in BUILTINS}


def open_data(name: str, size: int = 0) -> Data:
    """Open a built-in corpus by name, or the user's own data by path (write ./digits for a folder of that name).

    Args:
        name: a built-in's name; a folder of images, of text, or of JSONL or parquet files; or one such file.
            Two image sets with a colon between them are one: the second's rows, each beside a "source" from the first.
        size: images are cropped to a square and brought to size x size (0 = as they are).

    Raises:
        DataError: nothing by that name, or nothing in it that can be used. Inside `recall` the facts are the run's own,
            and the rows are read, and held against the facts' hash, when first asked for.
    """
    name = os.fspath(name)
    facts = recalled()
    if facts is not None:
        return Data(facts, lambda: _again(facts, name).splits)
    return _open(name, size)


def _open(name: str, size: int) -> Data:
    if not 0 <= size <= LARGEST:
        near = min(max(size, 0), LARGEST)
        raise DataError(f"size {size} is not a side in pixels; allowed are 0 (as they are) .. {LARGEST}; nearest is {near}")
    for source in BUILTINS:
        if source.__name__ == name:
            return _of_its_own(_drawn(source, size))
    path = Path(name).expanduser()
    if not path.exists() and name.count(BETWEEN) == 1:
        return beside(*(_open(part, size) for part in name.split(BETWEEN)))
    if not name or not path.exists():
        raise DataError(_unknown(name, path))
    path = path.resolve()
    return _read_own(path, size, signature(path))


@lru_cache(maxsize=8)  # comparing recipes on one corpus makes it once; what it is made of changes with installed packages only
def _drawn(source: Callable[..., Data], size: int) -> Data:
    with torch.device("cpu"):  # rows lie there, also where a system is built on meta
        return source(size) if size and inspect.signature(source).parameters else _sized(source(), size)


def _of_its_own(data: Data) -> Data:
    """The same rows; whoever puts other columns in place of some does so for himself."""
    return Data(data.facts, lambda: {part: Split(dict(split.columns), split.levels) for part, split in data.splits.items()})


@lru_cache(maxsize=2)  # the same for a folder; a changed file changes the signature
def _read_own(path: Path, size: int, state: str) -> Data:
    with torch.device("cpu"):
        return read_own(path, size)


def _sized(data: Data, size: int) -> Data:
    if size == 0:
        return data
    if data.facts.field != "image":
        raise DataError(f"size {size} is for images; {data.facts.name!r} is {data.facts.field}: leave size at 0")
    return resized(data, size)


def _again(facts: Facts, name: str) -> Data:
    """The data that a run remembers, read anew and checked: where it was, else where `name` says it is now."""
    builtin = facts.name in corpora()
    place = facts.name if _there(facts.name) or not _there(name) else name
    if not _there(place):
        raise DataError(f"the data of this run is gone: {facts.name} does not exist. Put it back there to read rows from it")
    data = _open(place, facts.size)
    if data.facts.hash != facts.hash:
        was, now = (", ".join(f"{split} {count:,}" for split, count in of.rows.items()) for of in (facts, data.facts))
        why = "; it comes with an installed package, whose version may differ" if builtin else ""
        raise DataError(
            f"the data changed since the run: {place} had {was} rows with hash {facts.hash[:12]}, "
            f"now {now} rows with hash {data.facts.hash[:12]}{why}"
        )
    return data


def _there(name: str) -> bool:
    """Whether there is a built-in or a path of that name, or two with a colon between them."""
    if name in corpora() or Path(name).expanduser().exists():
        return True
    return name.count(BETWEEN) == 1 and all(_there(part) for part in name.split(BETWEEN))


def _unknown(name: str, path: Path) -> str:
    """What to say of a name that is neither a built-in nor a path."""
    names = list(corpora())
    message = f"no data called {name!r}: neither a built-in ({', '.join(names)}) nor an existing path."
    if os.sep not in name and (near := nearest(name, names)):
        return message + near
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    if parent != path.parent:
        return f"{message} There is no folder {path.parent}, the nearest that exists is {parent}"
    try:
        beside = os.listdir(parent)
    except OSError:
        beside = []
    close = difflib.get_close_matches(path.name, beside, n=1)
    return f"{message} Nearest is {str(parent / close[0])!r}." if close else message
