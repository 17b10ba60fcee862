"""Does what is written work? Programs completed several times each and run, walled in: pass@k, by execution.

Knows rows with a beginning and checks, and causal systems of text; not what the programs are about. Runs nothing unless told to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from maquette.contracts import IGNORE, Sampler
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence, UnfitSamples
from maquette.metrics.intervals import proportion
from maquette.sandbox import Limits, Sandbox, Uncontained
from maquette.sandbox.checking import judged

TASKS, SAMPLES, KS = 100, 20, (1, 10)
ROOM = 128  # symbols of a completion at most
MEANINGS = {
    "pass@": "Share of held-out tasks that one of so many programs solves: each was run, walled in, and gave what every check "
    "asks for (unbiased: Chen 2021, eq. 1). It depends on the temperature, and on how many are drawn: see the signature.",
    "programs that run": "Share of the written programs that ran through their checks without an error, right or wrong.",
}


def applies(evidence: Evidence) -> str:
    if evidence.system is None and evidence.writes is None:
        return "only samples are known, no system"
    if evidence.facts.field != "text" or not {"prompt", "check"} <= {*evidence.data.held.columns}:
        return "the data have no tasks with checks"
    return shut(evidence)


def shut(evidence: Evidence) -> str:
    """Why nothing that is written of beginnings can be run; "" = it can."""
    if evidence.system is not None and not continues(evidence.system):
        return "the system does not continue texts from left to right"
    return "" if evidence.executes else "generated code is run only where that is allowed: --allow-code-exec"


@contextmanager
def walled(checks: Sequence[str]) -> Iterator[Sandbox]:
    """A sandbox at work, with what checks import.

    Raises:
        UnfitSamples: this machine cannot put its walls up.
    """
    needed = {name for check in checks for name in json.loads(check).get("imports", ())}
    with Sandbox(limits=Limits(seconds=10.0, cpu=5), imports=sorted(needed)) as sandbox:
        try:
            sandbox.start()
        except Uncontained as error:
            raise UnfitSamples(str(error)) from None
        yield sandbox


def continues(system: Any) -> bool:
    """Whether a system goes on with texts, told nothing else."""
    return system.objective.bound == "exact" and system.conditioner is None


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """pass@k with Wilson's interval over the tasks, which is wide enough for any share of each."""
    system: Any = evidence.system
    columns = evidence.data.held.columns
    chosen = torch.randperm(len(columns["prompt"]), generator=torch.Generator().manual_seed(evidence.seed))[:TASKS].tolist()
    prompts, checks = ([str(columns[name][i]) for i in chosen] for name in ("prompt", "check"))
    prompts = [prompt.rstrip() for prompt in prompts]  # symbols of a text are not cut behind white space; it is written anew
    if evidence.writes is None:
        written = completed(system, prompts, SAMPLES, evidence.seed)
    else:
        texts = [ended(text) for text in evidence.writes([prompt for prompt in prompts for _ in range(SAMPLES)])]
        written = [texts[at : at + SAMPLES] for at in range(0, len(texts), SAMPLES)]
    right, ran = [], 0
    with walled(checks) as sandbox:
        for prompt, texts, check in zip(prompts, written, checks, strict=True):
            done = {text: judged(sandbox, prompt + text, json.loads(check)) for text in set(texts)}
            right.append(sum(done[text][0] for text in texts))
            ran += sum(done[text][1] for text in texts)
    drawn = {} if system is None else {name: str(getattr(system.sampler, name, "")) for name in ("temperature", "top_p")}
    options = (("samples per task", str(SAMPLES)), *drawn.items(), ("checks", "all"), ("interval", "Wilson, tasks"))
    n, found = len(right), {}
    for k in KS:
        share = sum(at_least_one(SAMPLES, count, k) for count in right)
        name = f"pass@{k}"
        found[name] = evidence.estimate(name, proportion(share, n), n, better="higher", samples=SAMPLES * n, options=options)
    name, of = "programs that run", SAMPLES * n
    found[name] = evidence.estimate(name, proportion(ran, of), of, better="higher", samples=of, options=options)
    return found


def at_least_one(n: int, right: int, k: int) -> float:
    """The chance that k of n samples, `right` of which are right, have a right one among them (Chen 2021, eq. 1)."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


@torch.no_grad()
def completed(
    system: Any, prompts: list[str], samples: int, seed: int, sampler: Sampler | None = None, whole: bool = False
) -> list[list[str]]:
    """What the system writes behind each prompt, so many times, up to where the function ends; or, `whole`, all of it.

    A prompt too long for the context is begun later.

    Args:
        sampler: another than the system's own.
    """
    codec, most = system.codec, system.codec.length
    rows = [row[-(most - min(ROOM, most // 2)) :] for row in codec.tokenize(prompts)]
    width = min(most, max(map(len, rows)) + ROOM)
    start = torch.full((len(rows), width), IGNORE, dtype=torch.int64)
    for place, row in enumerate(rows):
        start[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
    start = start.repeat_interleave(samples, 0).to(system.device)
    writer: Any = sampler or system.sampler
    code = system.sample(len(start), start=start, seed=seed, sampler=replace(writer, length=width))["code"]
    texts = []
    for place, symbols in enumerate(code):
        known = len(rows[place // samples])
        text = codec.decode(symbols[None, known:])[0]
        texts.append(text if whole else ended(text))
    return [texts[at : at + samples] for at in range(0, len(texts), samples)]


def ended(text: str) -> str:
    """A text up to its first line that is not indented: a function's body."""
    lines = text.splitlines(keepends=True)
    last = next((i for i, line in enumerate(lines) if line.strip() and not line[0].isspace()), len(lines))
    return "".join(lines[:last])
