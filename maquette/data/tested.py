"""Built-in code with tests: functions as in `functions`, and some of them with lines behind that say what small arguments give.

Simulated. Knows how a test is read from what a model writes; runs nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from maquette.data import function_parts
from maquette.data import functions as made
from maquette.data.cache import cached
from maquette.data.core import Column, Data, text_data

TESTED = 4_000  # functions that have tests behind
TESTS = 3  # of each


def tested() -> Data:
    """Functions as in `functions`, 4,000 of them with tests behind, `assert f([2, -1]) == 3`, all of which hold: simulated."""
    data = made.functions()
    key = hashlib.sha256(f"{data.facts.hash} {TESTED} {TESTS}".encode())
    for module in (function_parts.__file__, made.__file__, __file__):
        key.update(Path(str(module)).read_bytes())
    found = json.loads(cached("tested", key.hexdigest(), lambda: json.dumps(_found()).encode()))
    train: dict[str, list[Any]] = {name: list(data.train.columns[name]) for name in ("text", "prompt", "check")}
    given = [0] * len(train["text"])
    for place, tests in enumerate(found["train"][:TESTED]):
        text, prompt, check = (train[name][place] for name in ("text", "prompt", "check"))
        given.append(len(text.rstrip()))
        for name, value in (("text", text + tests), ("prompt", prompt), ("check", check)):
            train[name].append(value)
    order = sorted(range(len(given)), key=lambda i: random.Random(i).random())
    columns: dict[str, dict[str, Column]] = {
        "train": {name: [column[i] for i in order] for name, column in {**train, "given": given}.items()},
        "held": {**{name: list(data.held.columns[name]) for name in train}, "tests": found["held"]},
    }
    return text_data(replace(data.facts, name="tested"), columns)


def _found() -> dict[str, list[str]]:
    """Tests of every function of each split, in their order."""
    found: dict[str, list[str]] = {"train": [], "held": []}
    for part, lines in found.items():
        for i, (_, layout) in enumerate(made.made(part)):
            lines.append(_tests(layout, random.Random(f"tested {part} {i}")))
    return found


def _tests(layout: made.Layout, rng: random.Random) -> str:
    """Lines of tests, each with another argument of few things."""
    given = next((used for used in layout.used if used.name), None)
    lines: dict[str, str] = {}
    while len(lines) < TESTS:
        about = made.argument(layout.subject, rng, rng.randint(0, 3))
        more = made.second(given, rng)
        call = f"f({about!r}, {more!r})" if given else f"f({about!r})"
        lines[call] = f"assert {call} == {_written(made.right(layout, about, more))}\n"
    return "".join(lines.values())


def _written(value: Any) -> str:
    """A value as it is written out; of a set in an order that does not hang on the process."""
    return "{" + ", ".join(sorted(map(repr, value))) + "}" if isinstance(value, set) and value else repr(value)


def tests_in(text: str, name: str = "f") -> Iterator[tuple[str, str]]:
    """(call, what it is to give, written out) of each line of a text that is a test of a function; others are passed over."""
    for line in text.splitlines():
        try:
            found: Any = ast.parse(line.strip()).body
        except (SyntaxError, ValueError):
            continue
        test = found[0].test if len(found) == 1 and isinstance(found[0], ast.Assert) else None
        if not isinstance(test, ast.Compare) or not isinstance(test.left, ast.Call) or not isinstance(test.ops[0], ast.Eq):
            continue
        if ast.unparse(test.left.func) != name or len(test.ops) > 1:
            continue
        try:
            ast.literal_eval(test.comparators[0])
        except (ValueError, TypeError, SyntaxError, MemoryError):
            continue
        yield ast.unparse(test.left), ast.unparse(test.comparators[0])
