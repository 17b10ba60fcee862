"""Does being told what went wrong help? Programs that failed, written again behind it, against as many more tries from the start.

Knows rows with a beginning and checks, and causal systems of text that have learnt to write a program again. Runs nothing unless
told to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maquette.contracts import Sampler
from maquette.data.repairs import SHOWN, asked
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence, UnfitSamples
from maquette.metrics.intervals import mean, proportion
from maquette.metrics.passing import completed, shut, walled
from maquette.sandbox import Sandbox
from maquette.sandbox.checking import fault, first_of

TASKS, ROUNDS = 200, 2
MEANINGS = {
    "repaired": "Share of programs that failed an example they were shown and pass all checks, hidden ones too, after being "
    "written again so many times behind what went wrong.",
    "drawn anew": "Share of the same tasks that pass after as many tries from the start: the first that passes what is shown.",
    "gained by repair": "By how much the first share is above the second, task by task: what being told is worth.",
    "symbols of a repair": "Symbols written for each failed program that is repaired, up to one that passes what is shown.",
    "symbols anew": "Symbols written for the same by tries from the start.",
}


@dataclass
class Attempt:
    """A program on its way: how it begins, the examples it is shown, its body, what is wrong with that ("" = nothing)."""

    prompt: str
    shown: dict[str, Any]
    body: str = ""
    wrong: str = ""
    symbols: int = 0


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if evidence.facts.name != "repairs":
        return "the data teach no repair of programs; repairs does"
    return shut(evidence)


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Shares over tasks whose first program failed: Wilson's interval, of the difference a normal one, paired."""
    system: Any = evidence.system
    columns, seed = evidence.data.held.columns, evidence.seed
    chosen = torch.randperm(len(columns["prompt"]), generator=torch.Generator().manual_seed(seed))[:TASKS].tolist()
    texts = [str(columns["check"][i]) for i in chosen]
    checks = [json.loads(text) for text in texts]
    with walled(texts) as sandbox:
        firsts = [Attempt(str(columns["prompt"][i]), first_of(check, SHOWN)) for i, check in zip(chosen, checks, strict=True)]
        write(system, sandbox, firsts, seed, again=False)
        failed = [i for i, first in enumerate(firsts) if first.wrong]
        if not failed:
            raise UnfitSamples(f"every one of {len(firsts)} programs passed what it was shown: there is nothing to repair")
        right, symbols = {}, {}
        for name, again in (("repaired", True), ("drawn anew", False)):
            tries = [Attempt(**{**vars(firsts[i]), "symbols": 0}) for i in failed]
            for turn in range(ROUNDS):
                write(system, sandbox, [one for one in tries if one.wrong], seed + 1 + turn, again)
            right[name] = np.array(
                [not (one.wrong or run(sandbox, one, checks[i])) for one, i in zip(tries, failed, strict=True)], dtype=np.float64
            )
            symbols[name] = np.array([one.symbols for one in tries], dtype=np.float64)
    dial = tuple((name, str(getattr(system.sampler, name, ""))) for name in ("temperature", "top_p"))
    told = (("rounds", str(ROUNDS)), ("shown", str(SHOWN)), *dial)
    n, found = len(failed), {}
    for name, values in right.items():
        options = (*told, ("interval", "Wilson, tasks"))
        found[name] = evidence.estimate(name, proportion(values.sum(), n), n, better="higher", samples=n, options=options)
    options = (*told, ("interval", "normal, paired"))
    gain = mean(right["repaired"] - right["drawn anew"])
    found["gained by repair"] = evidence.estimate("gained by repair", gain, n, better="higher", samples=n, options=options)
    for name, key in (("symbols of a repair", "repaired"), ("symbols anew", "drawn anew")):
        found[name] = evidence.estimate(name, mean(symbols[key]), n, better="lower", samples=n, options=options)
    return found


def write(
    system: Any, sandbox: Sandbox, attempts: Sequence[Attempt], seed: int, again: bool, sampler: Sampler | None = None
) -> None:
    """Write each program, or write it again behind what went wrong; run it on what it is shown, and say what is wrong then."""
    if not attempts:
        return
    prompts = [asked(one.prompt, one.body, one.wrong) if again else one.prompt.rstrip() for one in attempts]
    written = completed(system, prompts, 1, seed, sampler)
    lengths = [len(row) for row in system.codec.tokenize([texts[0] for texts in written])]
    for one, texts, length in zip(attempts, written, lengths, strict=True):
        one.body, one.symbols = texts[0], one.symbols + length
        one.wrong = run(sandbox, one)


def run(sandbox: Sandbox, one: Attempt, check: dict[str, Any] | None = None) -> str:
    """What goes wrong first with a program, by what it is shown or by another check; "" = nothing."""
    asked_of = check or one.shown
    program = asked_of["before"] + one.prompt.rstrip() + one.body
    return fault(sandbox.run(program, asked_of["calls"], shown=asked_of["shown"]), asked_of)
