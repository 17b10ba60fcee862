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
