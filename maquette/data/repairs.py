"""Built-in code that was mended: functions as in `functions`, and some of them broken, with what went wrong, and right again.

What went wrong is found out behind the walls of a sandbox, once, and kept on disk. Knows how a program that failed is told to
who is to write it again.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

from maquette.data import mutants
from maquette.data.cache import cached
from maquette.data.core import Column, Data, text_data
from maquette.data.errors import DataError
from maquette.data.functions import MODULES, functions
from maquette.sandbox import Limits, Sandbox, Uncontained
from maquette.sandbox.checking import fault, first_of

BROKEN = 2_000  # functions that are broken, each once
SHOWN = 3  # calls of each that are shown: what went wrong is said of the first of them that fails


def repairs() -> Data:
    """Functions as in `functions`, and 2,000 of them broken, with what went wrong, and right again: repairs, simulated."""
    data = functions()
    key = hashlib.sha256(f"{data.facts.hash} {BROKEN} {SHOWN}".encode() + Path(mutants.__file__).read_bytes())
    found = json.loads(cached("repairs", key.hexdigest(), lambda: json.dumps(_found(data)).encode()))
    train = {name: list(column) for name, column in data.train.columns.items() if name in ("text", "prompt", "check")}
    given = [0] * len(train["text"])
    for place, broken, wrong in found:
        prompt, text, check = (str(data.train.columns[name][place]) for name in ("prompt", "text", "check"))
        before = asked(prompt, broken.removeprefix(prompt), wrong)
        given.append(len(before))
        for name, value in (("text", f"{before}\n{text.removeprefix(prompt)}"), ("prompt", prompt), ("check", check)):
            train[name].append(value)
    order = sorted(range(len(given)), key=lambda i: random.Random(i).random())
    columns: dict[str, dict[str, Column]] = {
        "train": {name: [column[i] for i in order] for name, column in {**train, "given": given}.items()},
        "held": {name: list(column) for name, column in data.held.columns.items() if name in train},
    }
    note = "broken ones have one change that a program made; a model's own faults are others"
    return text_data(replace(data.facts, name="repairs", notes=(*data.facts.notes, note)), columns)


def asked(prompt: str, body: str, wrong: str) -> str:
    """What a program is written again behind: how it begins, the body that failed, what went wrong."""
    return f"{prompt.rstrip()}\n{body.strip(chr(10))}\n# {wrong}"


def _found(data: Data) -> list[tuple[int, str, str]]:
    """(which function, it broken, what goes wrong on its shown calls) of as many training functions as are to be broken.

    Raises:
        DataError: nothing here holds programs in, so that none is run.
    """
    texts, checks = (list(map(str, data.train.columns[name])) for name in ("text", "check"))
    rng, found = random.Random("repairs"), list[tuple[int, str, str]]()
    try:
        with Sandbox(limits=Limits(seconds=5.0, cpu=3), imports=MODULES) as sandbox:
            for place, (text, check) in enumerate(zip(texts, checks, strict=True)):
                if len(found) == BROKEN:
                    break
                broken = mutants.mutant(text, rng)
                if broken is None or broken == text:
                    continue
                shown = first_of(json.loads(check), SHOWN)
                if wrong := fault(sandbox.run(broken, shown["calls"]), shown):
                    found.append((place, broken, wrong))
    except Uncontained as error:
        raise DataError(f"what goes wrong in a broken program is found out by running it: {error}") from None
    return found
