"""Programs that are right by what they give: a beginning and what was written behind it, run walled in. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from maquette.sandbox import Limits, Sandbox
from maquette.sandbox.checking import judged

ALWAYS = ("math",)  # with an import a sandbox forks a warm process, where that holds, in half the time of a new one
KEPT = 1 << 14  # programs whose outcome is remembered: those of a group that learns are much alike


class Programs:
    """Whether a row's "prompt" and the answer behind it pass the row's "check". The sandbox starts with the first."""

    def __init__(self) -> None:
        self.sandbox: Sandbox | None = None
        self.known: dict[tuple[str, str], float] = {}

    def __call__(self, row: Mapping[str, Any], reply: str) -> float:
        """1 where each of its calls gives what is right, else 0.

        Raises:
            Uncontained: nothing here holds a program in.
        """
        program, check = str(row["prompt"]) + reply, str(row["check"])
        if (program, check) not in self.known:
            told = json.loads(check)
            if len(self.known) >= KEPT:
                self.known.clear()
            self.known[program, check] = float(judged(self.warm(told.get("imports", ())), program, told)[0])
        return self.known[program, check]

    def warm(self, imports: list[str]) -> Sandbox:
        """A sandbox that has imported these."""
        if self.sandbox is None or not {*imports} <= {*self.sandbox.imports}:
            before = ALWAYS if self.sandbox is None else self.sandbox.imports
            self.close()
            self.sandbox = Sandbox(limits=Limits(seconds=5.0, cpu=2), imports=sorted({*before, *imports})).start()
        return self.sandbox

    def close(self) -> None:
        """End what is kept warm."""
        if self.sandbox is not None:
            self.sandbox.close()
        self.sandbox = None


passes = Programs()
