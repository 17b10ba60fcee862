"""Built-in text: the source of Python's standard library, and the prose in it. Knows where Python keeps both."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import platform
import sysconfig
import warnings
from pathlib import Path

from maquette.data.cache import cached
from maquette.data.core import Column, Data, Facts, text_data
from maquette.data.errors import DataError
from maquette.data.shares import HELD, held_out, sha1

# data tables, tests, other languages' grammars, other people's packages: not code of the library's own
LEFT_OUT = {"encodings", "pydoc_data", "test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
_GENERATED = ("_sysconfigdata", "config-")  # written by the machine that built this Python
PROSE = 60  # characters: shorter docstrings are labels
RULE = f"by file: held out where the first 32 bits of the path's SHA-1 modulo 100 are below {HELD}"


def stdlib() -> Data:
    """Python's standard library: 450 files, 8.8 MB of code on 3.11, a document per file."""
    found, skipped = sources()
    return _of("stdlib", [(path, text) for path, text in found.items()], skipped)


def stdlib_prose() -> Data:
    """Docstrings of the standard library and the topics of its `help()`: 4,900 texts, 2 MB of English on 3.11."""
    found, skipped = sources()
    key = hashlib.sha256(f"1 {platform.python_version()} {PROSE}".encode())
    for path, text in found.items():
        key.update(f"{path}\n{text}".encode())
    pairs = json.loads(cached("stdlib_prose", key.hexdigest(), lambda: json.dumps(_prose(found)).encode()))
    return _of("stdlib_prose", [(path, text) for path, text in pairs], skipped)


def _of(name: str, pairs: list[tuple[str, str]], skipped: list[tuple[str, str]]) -> Data:
    """Data of (path, text) pairs, parted by path."""
    columns: dict[str, dict[str, Column]] = {
        part: {"text": [text for path, text in pairs if held_out(sha1(path.encode())) is held]}
        for part, held in (("train", False), ("held", True))
    }
    return text_data(facts_of(name, tuple(skipped)), columns)


def facts_of(name: str, skipped: tuple[tuple[str, str], ...] = ()) -> Facts:
    """Facts of a corpus that is made of Python's own library."""
    return Facts(
        name=name,
        field="text",
        kind="real",
        licence="PSF-2.0",
        attribution=f"Python {platform.python_version()} standard library, Python Software Foundation and contributors",
        hash="",
        rows={},
        split=RULE,
        notes=("differs between versions of Python",),
        skipped=skipped,
    )


def sources() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Path within the library -> text, in path order, each text once; and the files that could not be read."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    skipped = []
    known: set[str] = set()
    for place, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in LEFT_OUT and not f.startswith(_GENERATED)]
        for name in files:
            if not name.endswith(".py") or name.startswith(_GENERATED):
                continue
            path = Path(place, name)
            try:
                found[path.relative_to(root).as_posix()] = path.read_bytes().decode()
            except (OSError, UnicodeDecodeError) as error:
                skipped.append((path.relative_to(root).as_posix(), str(error)))
    kept = {}
    for name in sorted(found):
        if found[name].strip() and found[name] not in known:
            known.add(found[name])
            kept[name] = found[name]
    if len(kept) < 2:
        raise DataError(f"this Python has no source of its standard library in {root}; use a folder of text instead")
    return kept, skipped


def _prose(sources: dict[str, str]) -> list[tuple[str, str]]:
    """(path, docstring) of every module, class and function, each text once, and (path/topic, text) of `help()`."""
    found: dict[str, str] = {}
    for path, text in sources.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old escapes in other people's strings
                tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                said = ast.get_docstring(node, clean=False)
                if said and len(clean := inspect.cleandoc(said)) >= PROSE:
                    found.setdefault(clean, path)
    from pydoc_data.topics import topics

    for topic, text in topics.items():
        found.setdefault(text.strip() + "\n", f"pydoc_data/topics/{topic}")
    return [(path, text) for text, path in found.items()]
