"""Rollouts: symbols of answers per CPU-second, many side by side against one at a time, and through an engine outside.

    python benchmarks/rollouts.py RUN [--questions 16] [--group 8] [--alone 16]

A run of reasoner, such as benchmarks/reasoning.py keeps. The same questions under the same noise: every answer of every group in
one batch, in batches of 32 and 8, and `alone` of them one by one, plainly and by the native step that serving takes; then all of
them through samplers/outside.py, whose engine is given symbols and a copy of the weights. Symbols are those that were drawn, ends
among them. One thread. Writes benchmarks/DATE-rollouts-DATA.md and .json.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import torch
from tables import side_by_side
from torch import Tensor

from maquette.contracts import IGNORE, Code
from maquette.data.questions import Questions
from maquette.loading import load
from maquette.networks.stepping import stepping
from maquette.objectives.rollout import answered
from maquette.runs import versions
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.outside import Answer, Outside
from maquette.samplers.writing import said
from maquette.streams import Streams, keys_of
from maquette.system import System

HERE = Path(__file__).parent
TIMES = 3


class Copy:
    """An engine outside: it has a system of its own, of which it changes the weights for those that it hears."""

    def __init__(self, system: System):
        self.system = copy.deepcopy(system)

    def learn(self, weights: Mapping[str, Tensor]) -> None:
        self.system.nets["main"].load_state_dict(dict(weights))

    def write(self, prompts: list[list[int]], room: list[int], seeds: list[int]) -> Sequence[Answer]:
        start = torch.full((len(prompts), max(len(p) + r for p, r in zip(prompts, room, strict=True))), IGNORE)
        for row, prompt in zip(start, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        *_, code = Autoregressive().draw(self.system, len(start), start=start, rng=Streams(torch.tensor(seeds)))
        mine = answered(code, start, self.system.codec)
        logs = said(self.system.nets["main"], code, None, self.system.codec, mine)
        return [(row[own].tolist(), log[own].tolist()) for row, log, own in zip(code, logs, mine, strict=True)]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("run", type=Path)
    asked.add_argument("--questions", type=int, default=16)
    asked.add_argument("--group", type=int, default=8)
    asked.add_argument("--alone", type=int, default=16)
    given = asked.parse_args()
    torch.set_num_threads(1)
    own = load(given.run, device="cpu")
    system, held = own.system.eval(), own.data.held
    assert isinstance(held, Questions)
    start = held.rows(torch.arange(given.questions))["start"].repeat_interleave(given.group, 0)
    rows, plain = len(start), Autoregressive()

    def side(size: int, count: int, one: System = system) -> Callable[[], list[Code]]:
        def draw() -> list[Code]:
            found = []
            for at in range(0, count, size):
                seeds = range(at, min(at + size, count))
                *_, code = plain.draw(one, len(seeds), start=start[at : at + size], rng=keys_of(list(seeds)))
                found.append(code)
            return found

        return draw

    native = copy.copy(system)
    native._modules = {**system._modules, "nets": torch.nn.ModuleDict({"main": stepping(system.nets["main"], 32)})}  # type: ignore[arg-type]
    outside = Outside(Copy(system))

    ways: dict[str, Callable[[], list[Code]]] = {
        f"{rows} side by side": side(rows, rows),
        "32 side by side": side(32, rows),
        "8 side by side": side(8, rows),
        "one at a time": side(1, given.alone),
        "one at a time, native step": side(1, given.alone, native),
        f"an engine outside, {rows}": lambda: list(outside.draw(system, rows, start=start, rng=keys_of(list(range(rows))))),
    }
    found: dict[str, dict[str, str]] = {}
    with torch.no_grad():
        for name, draw in ways.items():
            found[name] = timed(draw, start, system)
    text = [
        f"# Symbols of rollouts per CPU-second, {date.today()}",
        "",
        f"{given.questions} questions of `{own.facts.name}`, {given.group} answers each, step {own.progress.step} of a run of",
        f"commit {own.trained.record['versions']['git'][:8]}; {TIMES} times each, the fastest. One thread. Made by",
        f"`python benchmarks/rollouts.py`, torch {versions()['torch']}.",
        "",
        *side_by_side(found),
    ]
    path = HERE / f"{date.today()}-rollouts-{own.facts.name}.md"
    path.write_text("\n".join(text) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def timed(draw: Callable[[], list[Code]], start: Code, system: System) -> dict[str, str]:
    """Symbols drawn, and how many a CPU-second; a first time is not counted."""
    code = draw()
    drawn, at = 0, 0
    for part in code:
        drawn += int(answered(part, start[at : at + len(part), : part.shape[1]], system.codec).sum())
        at += len(part)
    took = []
    for _ in range(TIMES):
        began = time.process_time()
        draw()
        took.append(time.process_time() - began)
    return {
        "answers": str(at),
        "symbols": str(drawn),
        "seconds": f"{min(took):.2f}",
        "symbols a second": f"{drawn / min(took):.0f}",
    }


if __name__ == "__main__":
    main()
