"""Functions of networkx and sympy written from prose alone, by a model that has read Python's standard library.

Trains codex on stdlib for a budget of training seconds; what it writes is run, walled in, on the docstrings' own examples, beside
n-grams of the same texts, and the program of the standard library whose docstring is most like. None of the functions is in what
was learnt from, so that all of them are asked for. Programs that run can read the packages, and the answers in them: one that did
would pass. Writes benchmarks/DATE-gradeable.md and .json. python benchmarks/gradeable.py --budget 600s --seeds 0
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from maquette import api
from maquette.baselines import most_similar
from maquette.data import Data, Split, open_data
from maquette.evaluate import choose, judge
from maquette.metrics import passing
from maquette.metrics.evidence import Evidence
from maquette.metrics.ngrams import NGrams

FIGURES = ("pass@1", "pass@10", "programs that run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="600s")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--keep", default="")
    asked = parser.parse_args()
    passing.TASKS = asked.tasks
    day, busy = datetime.date.today().isoformat(), os.getloadavg()[0]
    out = Path(__file__).parent / f"{day}-gradeable"
    folder = Path(asked.keep or tempfile.mkdtemp(prefix="maquette-gradeable-"))
    tasks = every(open_data("gradeable"))
    texts = [str(text) for text in open_data("stdlib").train.columns["text"]]
    rows = [{"name": name, **figures(tasks, writes=writes)} for name, writes in floors(texts).items()]
    for seed in map(int, asked.seeds.split(",")):
        place = folder / f"codex-{seed}"
        if not (place / "README.md").exists():  # written when training ends
            options = {"data": "stdlib", "context": 256, "vocab": 4096, "depth": asked.depth}
            api.train("codex", out=place, budget=asked.budget, seed=seed, quiet=True, **options)
        found = api.load(place)
        seconds = found.progress.seconds
        rows.append({"name": f"codex, seed {seed}, {seconds:.0f} s", **figures(tasks, system=found.system)})
        print(json.dumps(rows[-1]), flush=True)
    told = {"budget": asked.budget, "load": busy, "tasks": len(tasks.held), "rows": rows}
    out.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    out.with_suffix(".md").write_text(page(told, asked.tasks, day))
    print(out.with_suffix(".md").read_text())


def every(data: Data) -> Data:
    """All rows as held-out ones."""
    columns = {name: [*data.train.columns[name], *data.held.columns[name]] for name in data.held.columns}
    return Data(data.facts, lambda: {"train": Split(columns), "held": Split(columns)})


def figures(data: Data, system: Any = None, writes: Any = None) -> dict[str, list[float]]:
    with torch.no_grad():
        told = judge(Evidence(data, system, writes=writes, executes=True), choose(["passing"]))
    assert not told["skipped"], told["skipped"]
    return {name: [found.value, found.low, found.high, found.n] for name, found in told["metrics"].items()}


def floors(texts: list[str]) -> dict[str, Any]:
    """What writes without a model: by name."""
    grams, rng, known = NGrams(texts), random.Random(0), functions_of(texts)

    def counted(prompts: list[str]) -> list[str]:
        return [grams.continued(prompt, rng, 200) for prompt in prompts]

    def memory(prompts: list[str]) -> list[str]:
        asked = list(dict.fromkeys(prompts))
        places = most_similar(asked, [head for head, _ in known])
        body = {prompt: known[place][1] for prompt, place in zip(asked, places, strict=True)}
        return ["\n" + body[prompt] for prompt in prompts]

    return {"n-grams of stdlib": counted, "the most similar function of stdlib": memory}


def functions_of(texts: list[str]) -> list[tuple[str, str]]:
    """(how it begins, its docstring included; its body) of the functions at the first level of files."""
    found = []
    for text in texts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                nodes = ast.parse(text).body
        except SyntaxError:
            continue
        lines = text.splitlines(keepends=True)
        for node in nodes:
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
                split = node.body[1].lineno - 1
                found.append(("".join(lines[node.lineno - 1 : split]), "".join(lines[split : node.end_lineno])))
    return found


def page(told: dict[str, Any], tasks: int, day: str) -> str:
    """A table of all rows, with 95 % intervals over tasks."""
    lines = [f"# Functions of networkx and sympy from prose, codex on stdlib, {told['budget']} of training, {day}", ""]
    lines += [
        f"{min(tasks, told['tasks'])} of {told['tasks']} functions, 20 programs of each, run on the examples of their docstrings,"
        " which the prompt does not show.",
        "",
        f"| | {' | '.join(FIGURES)} |",
        f"|{'---|' * (len(FIGURES) + 1)}",
    ]
    for row in told["rows"]:
        shown = [f"{row[f][0]:.3f} [{row[f][1]:.3f}, {row[f][2]:.3f}]" for f in FIGURES]
        lines.append(f"| {row['name']} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", f"`benchmarks/gradeable.py`, load {told['load']:.1f} on {os.cpu_count()} cores.", ""])


if __name__ == "__main__":
    main()
