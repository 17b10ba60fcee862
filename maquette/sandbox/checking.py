"""What is right of a program is known out here: checks as data keep them, and whether what a program gave is right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from maquette.sandbox import Outcome, Sandbox

_RAISED = "Traceback (most recent call last):\n"


def checked(pairs: Sequence[tuple[str, str]], shown: bool = False, before: str = "", imports: Sequence[str] = ()) -> str:
    """Checks as a row of data keeps them: calls, and what each is to give, as `inside.told` says it.

    Args:
        shown: calls are lines as at Python's prompt, and what it is to show is what is right.
        before: what is run before the program.
        imports: what a sandbox had better import once for all.
    """
    told = {"calls": [c for c, _ in pairs], "right": [r for _, r in pairs], "shown": shown, "before": before}
    return json.dumps({**told, "imports": list(imports)} if imports else told)


def judged(sandbox: Sandbox, program: str, check: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a program gives what its checks ask for, and whether it ran through them."""
    outcome = sandbox.run(check["before"] + program, check["calls"], shown=check["shown"])
    return passes(outcome, check), outcome.ended == "finished"


def passes(outcome: Outcome, check: dict[str, Any]) -> bool:
    """Whether each call gave what is right; what Python's prompt shows may differ as doctests may."""
    if outcome.ended != "finished" or len(outcome.values) != len(check["right"]) or not check["right"]:
        return False
    pairs = zip(check["right"], outcome.values, strict=True)
    return all(alike(right, value) if check["shown"] else right == value for right, value in pairs)


def alike(right: str, value: str) -> bool:
    """Whether what the prompt shows is what a docstring says it shows; of a traceback, the error's name counts."""
    if right.startswith(_RAISED):
        name = right.rstrip().rsplit("\n", 1)[-1].split(":")[0].rsplit(".", 1)[-1]
        return value.startswith(_RAISED) and value.removeprefix(_RAISED).split(":")[0].rsplit(".", 1)[-1].strip() == name
    import doctest  # brings a debugger along

    return doctest.OutputChecker().check_output(right, value, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)


def first_of(check: dict[str, Any], calls: int) -> dict[str, Any]:
    """A check of its first calls alone: the examples that someone is shown."""
    return {**check, "calls": check["calls"][:calls], "right": check["right"][:calls]}


def fault(outcome: Outcome, check: dict[str, Any], most: int = 60) -> str:
    """What went wrong first, on one line of few characters each part: the error, or the call and what it gave; "" where nothing
    did."""
    if passes(outcome, check):
        return ""
    for call, value, right in zip(check["calls"], outcome.values, check["right"], strict=False):  # as far as they went
        if not (alike(right, value) if check["shown"] else right == value):
            return f"{_short(call.strip(), most)} gives {_short(_plain(value), most)}, not {_short(_plain(right), most)}"
    if outcome.ended == "failed":
        error, place = _short(outcome.error.strip().splitlines()[-1], most), len(outcome.values)
        called = "of <call>" in outcome.error and place < len(check["calls"])
        return f"{_short(check['calls'][place].strip(), most)}: {error}" if called else error
    return "it gives nothing to check" if outcome.ended == "finished" else f"it ended by {outcome.ended}"


def _plain(value: str) -> str:
    """A told value closer to how it is written: list(1, 2) as [1, 2]."""
    value = value.strip().replace("\n", " ")
    if value.startswith("list(") and value.count("(") == 1:
        return f"[{value[5:-1]}]"
    return value


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
