"""Built-in code: functions of installed packages, told by their docstrings and checked by the examples in them.

What an example is to show is what its docstring says; a function is kept if its own body, run anew, shows that, and one that
returns nothing does not. Found out behind the walls of a sandbox, once, and kept on disk. Knows where packages lie.
"""

from __future__ import annotations

import ast
import hashlib
import json
import warnings
from collections.abc import Iterator
from typing import Any

from maquette.data.cache import cached
from maquette.data.core import Column, Data, Facts, text_data
from maquette.data.docstrings import files_of
from maquette.data.errors import DataError
from maquette.data.packages import place_of, version_of
from maquette.data.python_source import RULE
from maquette.data.shares import held_out, sha1
from maquette.sandbox import Limits, Sandbox, Uncontained
from maquette.sandbox.checking import checked, judged

PACKAGES = {"networkx": "import networkx as nx\n", "sympy": "from sympy import *\n"}  # both come with torch
MOST = 300  # functions of a package that are tried, evenly spread
SAID, BODY = (20, 600), 1200  # characters of what is told of a function; of its body at most
# examples that need more than the function: files, windows, chance, the clock
_AWAY = (
    "open(",
    "plt",
    "draw",
    "random",
    "seed",
    "os.",
    "sys.",
    "time",
    "warn",
    "subprocess",
    "SKIP",
    "write",
    "preview",
    "plot",
)


def gradeable() -> Data:
    """Functions of networkx and sympy: docstring -> code, checked by running the docstring's own examples; 300 or so."""
    here = [name for name in PACKAGES if place_of(name)]
    if not here:
        raise DataError(f"none of the packages whose functions this asks for is installed: {', '.join(PACKAGES)}")
    key = hashlib.sha256(f"1 {MOST} {SAID} {BODY} {_AWAY} {[(name, version_of(name)) for name in here]}".encode())
    rows = json.loads(cached("gradeable", key.hexdigest(), lambda: json.dumps(_kept(here)).encode()))
    columns: dict[str, dict[str, Column]] = {}
    for part, held in (("train", False), ("held", True)):
        some = [row for row in rows if held_out(sha1(row[0].encode())) is held]
        columns[part] = {name: [row[i] for row in some] for i, name in enumerate(("prompt", "text", "check"), 1)}
    notes = ("differs between versions of the libraries", "what is run can read the packages, and the answers in them")
    about = Facts(
        name="gradeable",
        field="text",
        kind="real",
        licence="BSD-3-Clause",
        attribution=f"{', '.join(f'{name} {version_of(name)}' for name in here)} and their contributors",
        hash="",
        rows={},
        split=RULE,
        notes=notes,
    )
    return text_data(about, columns)


def _kept(packages: list[str]) -> list[list[str]]:
    """[file, how a function begins, all of it, its checks] of those whose checks tell their bodies from nothing.

    Raises:
        DataError: nothing here holds programs in, so that none is run.
    """
    found: list[list[str]] = []
    try:
        for package in packages:
            root = place_of(package)
            assert root is not None
            tried = [task for path, file in files_of(package, root) for task in tasks(package, path, file.read_text("utf-8"))]
            with Sandbox(limits=Limits(seconds=10.0, cpu=4), imports=(package,)) as sandbox:
                for path, prompt, text, check in tried[:: max(1, -(-len(tried) // MOST))]:
                    asked = json.loads(check)
                    if judged(sandbox, text, asked)[0] and not judged(sandbox, prompt + "    return None\n", asked)[0]:
                        found.append([path, prompt, text, check])
    except Uncontained as error:
        raise DataError(f"which functions can be checked is found out by running them: {error}") from None
    return found


def tasks(package: str, path: str, source: str) -> Iterator[tuple[str, str, str, str]]:
    """(file, how it begins, all of it, its checks) of every function of a file whose docstring has examples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in other people's strings
        tree = ast.parse(source)
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            task = _task(package, module, node, source)
            if task is not None:
                yield (path, *task)


def _task(package: str, module: str, node: ast.FunctionDef, source: str) -> tuple[str, str, str] | None:
    said, rest = ast.get_docstring(node) or "", node.body[1:]
    prose = said.split(">>>")[0].split("\n\n")[0].strip()
    if ">>>" not in said or not rest or not SAID[0] <= len(prose) <= SAID[1] or any(word in said for word in _AWAY):
        return None
    import doctest  # brings a debugger along

    try:
        examples: list[Any] = doctest.DocTestParser().get_examples(said)
    except ValueError:
        return None
    lines = source.splitlines(keepends=True)
    body = "".join(lines[rest[0].lineno - 1 : node.end_lineno])
    if not any(example.want for example in examples) or len(body) > BODY or not body.startswith("    ") or '"""' in prose:
        return None
    head = f"def {node.name}({ast.unparse(node.args)}):\n"
    told = "\n".join(f"    {line}".rstrip() for line in f'"""{prose}"""'.splitlines())
    before = f"{PACKAGES[package]}import {module}\nfrom sys import modules as _m\nglobals().update(vars(_m[{module!r}]))\n"
    pairs = [(call, "") for call in _instead(module, node.name)] + [(example.source, example.want) for example in examples]
    prompt = f"{head}{told}\n"
    return prompt, prompt + body.rstrip() + "\n", checked(pairs, shown=True, before=before, imports=(package,))


def _instead(module: str, name: str) -> list[str]:
    """Calls that put a program's function wherever the package has its own, so that examples find no other."""
    seek = f"if getattr(_n, '__dict__', {{}}).get({name!r}) is _was"
    return [
        f"_was = vars(_m[{module!r}])[{name!r}]\n",
        f"for _n in [_n for _n in list(_m.values()) {seek}]:\n    setattr(_n, {name!r}, {name})\n",
        "del _was\n",
    ]
