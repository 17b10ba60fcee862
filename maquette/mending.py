"""Programs that are checked as they are drawn, and written again behind what went wrong.

Knows systems of text that continue a prompt, and files of examples; runs what is written behind walls alone.
"""

from __future__ import annotations

import ast
import doctest
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maquette.contracts import Sampler
from maquette.metrics.passing import continues, ended
from maquette.metrics.repaired import Attempt, run, write
from maquette.sandbox import Limits, Sandbox
from maquette.sandbox.checking import checked
from maquette.sandbox.inside import told
from maquette.system import System


def examples_of(path: str | Path) -> dict[str, Any]:
    """A check from a file: lines `assert f([1, 2]) == 3`, or examples as at Python's prompt, `>>> f([1, 2])` and what it shows.

    Raises:
        ValueError: no such file; or it has neither, or an assert that compares no call with a value that is written out.
    """
    if not Path(path).is_file():
        raise ValueError(f"--check {path}: there is no such file")
    text = Path(path).read_text()
    if ">>>" in text:
        shown: list[Any] = doctest.DocTestParser().get_examples(text)
        return json.loads(checked([(example.source, example.want) for example in shown], shown=True))
    try:
        lines = ast.parse(text).body
    except SyntaxError as error:
        raise ValueError(f"--check {path} is no Python: line {error.lineno}: {error.msg}") from None
    pairs = []
    for line in lines:
        test = line.test if isinstance(line, ast.Assert) else None
        if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
            raise ValueError(f"--check {path}, line {line.lineno}: write each example as assert f([1, 2]) == 3")
        try:
            right = ast.literal_eval(test.comparators[0])
        except ValueError:
            raise ValueError(f"--check {path}, line {line.lineno}: what is right must be written out, as 3 or [1, 2]") from None
        pairs.append((ast.unparse(test.left), told(right)))
    if not pairs:
        raise ValueError(f"--check {path} holds no example: write lines as assert f([1, 2]) == 3")
    return json.loads(checked(pairs))


def check_mending(system: System, name: str, check: str | Path, rounds: int, executes: bool, prompt: str) -> None:
    """Refuse what cannot be checked, or not be repaired.

    Args:
        name: of the data that a run has learnt from.

    Raises:
        ValueError: which it is.
    """
    if rounds < 0 or (rounds and not check):
        raise ValueError(f"--repair {rounds}: rounds are 0 or more, and above 0 only where --check says what is right")
    if not check:
        return
    if not executes:
        raise ValueError("--check runs what the model writes, walled in, and only where that is allowed: --allow-code-exec")
    if system.codec.field != "text" or not continues(system) or not prompt:
        raise ValueError("--check is for programs that a run of text writes behind --prompt")
    if rounds and name != "repairs":
        raise ValueError(
            f"--repair {rounds}: this run learnt from {name}, which shows no program that was mended; "
            "`maquette train codex --data repairs --context 256` makes one that did"
        )


def mended(
    system: System, prompt: str, texts: Sequence[str], check: dict[str, Any], rounds: int, seed: int, sampler: Sampler
) -> dict[str, list[Any]]:
    """Programs, each checked, and where it fails written again up to so many times: "text", and "wrong", "" where it passes.

    Raises:
        Uncontained: nothing here holds a program in.
    """
    prompt = prompt.rstrip()
    tries = [Attempt(prompt, check, ended(text.removeprefix(prompt))) for text in texts]
    with Sandbox(limits=Limits(seconds=10.0, cpu=5)) as sandbox:
        for one in tries:
            one.wrong = run(sandbox, one)
        for turn in range(rounds):
            write(system, sandbox, [one for one in tries if one.wrong], seed + 1 + turn, again=True, sampler=sampler)
    return {"text": [one.prompt + one.body for one in tries], "wrong": [one.wrong for one in tries]}
