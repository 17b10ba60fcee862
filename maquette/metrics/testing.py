"""Are tests that are written of a function true, and do they notice when it is broken? By execution.

Knows rows with a function and checks, and causal systems of text that have learnt to write tests behind one. Runs nothing unless
told to.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from maquette.data.mutants import mutant
from maquette.data.tested import tests_in
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion
from maquette.metrics.passing import completed, shut, walled
from maquette.sandbox import Sandbox
from maquette.sandbox.checking import judged

TASKS, WRITTEN, BROKEN = 60, 3, 5  # functions; times that tests of each are written; broken versions of each
MEANINGS = {
    "tests that hold": "Share of the written tests that are true of their function, each function's share counted once.",
    "tests written": "Tests of a function that could be read, of the lines written several times; equal ones once.",
    "mutants caught": "Share of broken versions of a function, each with one change that its checks notice, on which a written "
    "test fails that holds on the right one.",
    "mutants caught by the data's tests": "The same for the data's own tests, all of which are true: as many as one answer has.",
}
_HOLDS = """
def _holds(test):
    try:
        return test() is True
    except Exception:
        return False
"""


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if evidence.facts.name != "tested":
        return "the data show no tests of functions; tested does"
    return shut(evidence)


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Means over functions: shares with Wilson's interval, how many with a normal one."""
    system: Any = evidence.system
    columns, seed = evidence.data.held.columns, evidence.seed
    chosen = torch.randperm(len(columns["text"]), generator=torch.Generator().manual_seed(seed))[:TASKS].tolist()
    texts, checks, own = ([str(columns[name][i]) for i in chosen] for name in ("text", "check", "tests"))
    written = completed(system, [text.rstrip() for text in texts], WRITTEN, seed, whole=True)
    tests = [list(dict.fromkeys(test for text in some for test in tests_in(text))) for some in written]
    shares: dict[str, list[float]] = {name: [] for name in MEANINGS}
    with walled(checks) as sandbox:
        for place, (text, check) in enumerate(zip(texts, checks, strict=True)):
            true = holding(sandbox, text, tests[place])
            shares["tests written"].append(len(tests[place]))
            if tests[place]:
                shares["tests that hold"].append(sum(true) / len(true))
            valid = [test for test, holds in zip(tests[place], true, strict=True) if holds]
            broken = mutants_of(sandbox, text, json.loads(check), random.Random(f"{seed} {place}"))
            if broken:
                shares["mutants caught"].append(caught(sandbox, broken, valid))
                shares["mutants caught by the data's tests"].append(caught(sandbox, broken, list(tests_in(own[place]))))
    dial = tuple((name, str(getattr(system.sampler, name, ""))) for name in ("temperature", "top_p"))

    def figure(name: str, each: np.ndarray) -> Estimate:
        n, counts = len(each), name == "tests written"
        kind = "normal" if counts else "Wilson"
        options = (("times", str(WRITTEN)), ("mutants", str(BROKEN)), *dial, ("interval", f"{kind}, functions"))
        interval = mean(each) if counts else proportion(float(each.sum()), n)
        return evidence.estimate(name, interval, n, better="higher", samples=n, options=options)

    return {name: figure(name, np.array(each, float)) for name, each in shares.items() if each}


def holding(sandbox: Sandbox, program: str, tests: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether each test holds on a program; none does on one that cannot be run."""
    if not tests:
        return []
    calls = [f"_holds(lambda: {call} == {right})" for call, right in tests]
    values = sandbox.run(program + _HOLDS, calls).values
    return [place < len(values) and values[place] == "True" for place in range(len(tests))]


def caught(sandbox: Sandbox, broken: Sequence[str], tests: Sequence[tuple[str, str]]) -> float:
    """Share of broken programs on which one of the tests fails."""
    return sum(not all(holding(sandbox, program, tests)) for program in broken) / len(broken)


def mutants_of(sandbox: Sandbox, program: str, check: dict[str, Any], rng: random.Random) -> list[str]:
    """Some broken versions of a program, all different, none of which passes its checks."""
    found = {text for text in (mutant(program, rng) for _ in range(3 * BROKEN)) if text and text != program}
    return [text for text in sorted(found, key=lambda _: rng.random())[:BROKEN] if not judged(sandbox, text, check)[0]]
