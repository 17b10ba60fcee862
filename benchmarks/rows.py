"""What a training step costs with what `maquette/nn/rows.py` does natively, with PyTorch's own operations in its place, and as a
compiled graph.

    python benchmarks/rows.py [--recipes sft,dpo,lamda,t5,clip,dit,mmdit] [--graphs gpt,qwen] [--rounds 12]

The same run takes its steps by turns, in one process on one thread, uncompiled; CPU-seconds of a step are medians over rounds,
ratios medians of those within a round. Of graphs, a second run with `--compile` takes its steps by turns with the first; seconds
before the fifth step are told, too, with an empty cache of graphs. Writes benchmarks/DATE-rows.md and .json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from maquette import api
from maquette.nn import attention, gelu, mlp, norm, positions, rows
from maquette.runs import build, versions
from maquette.train import Progress, ready, run

CALLERS = (norm, positions, gelu, mlp, attention)  # who asks `fit` whether rows are done natively


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--recipes", default="sft,dpo,lamda,t5,clip,dit,mmdit")
    asked.add_argument("--graphs", default="gpt,qwen", help="recipes that are compiled, too")
    asked.add_argument("--rounds", type=int, default=12)
    given = asked.parse_args()
    torch.set_num_threads(1)
    found = {recipe: measured(recipe, given.rounds) for recipe in given.recipes.split(",")}
    graphs = {recipe: compiled(recipe, given.rounds) for recipe in filter(None, given.graphs.split(","))}
    path = Path(__file__).parent / f"{date.today()}-rows.md"
    lines = [
        f"# A training step with native rows, {date.today()}",
        "",
        "CPU-seconds of a step on one thread, medians; the same run by turns with and without, uncompiled. `mmdit` on a codec",
        f"that is finished. {given.rounds} rounds. Made by `python benchmarks/rows.py`, torch {versions()['torch']}.",
        "",
        "| recipe | native | PyTorch's own | ratio |",
        "|---|---|---|---|",
    ]
    for recipe, told in found.items():
        lines.append(f"| `{recipe}` | {told['native']:.3f} | {told['plain']:.3f} | **{told['ratio']:.2f}x** |")
    lines += ["", "| recipe | native | compiled | native over compiled | before the fifth step: native | compiled |"]
    lines += ["|---|---|---|---|---|---|"] if graphs else []
    for recipe, told in graphs.items():
        cells = (f"{told[key]:.3f}" for key in ("native", "compiled", "ratio"))
        first = f"{told['native first']:.0f} s | {told['compiled first']:.0f} s"
        lines.append(f"| `{recipe}` | {' | '.join(cells)} | {first} |")
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps({"native": found, "compiled": graphs}, indent=1) + "\n")
    print(path.read_text())


def measured(recipe: str, rounds: int) -> dict[str, Any]:
    """Seconds of a step, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = {}
        if recipe == "mmdit":
            codec = Path(folder) / "codec"
            api.train("kl_codec", data="scenes", patch=4, latent=4, steps=2, out=codec, quiet=True)
            arguments["codec"] = str(codec)
        experiment = build(recipe, arguments, 0)[0]
        fit = replace(experiment.fit, steps=1 << 20, compile=False)
        experiment.system.learn(experiment.data.train)
        ready(experiment.system, fit)
        steps = run(experiment.system, experiment.data, Progress(fit, 0))
        for _ in range(4):  # the first ones allocate
            next(steps)
        spent: dict[str, list[float]] = {"native": [], "plain": []}
        for i in range(rounds):
            for way in spent if i % 2 else reversed(spent):
                _choose(way == "native")
                began = time.process_time()
                next(steps)
                spent[way].append(time.process_time() - began)
    _choose(True)
    ratio = statistics.median(plain / native for native, plain in zip(*spent.values(), strict=True))
    return {**{way: statistics.median(seconds) for way, seconds in spent.items()}, "ratio": ratio}


def compiled(recipe: str, rounds: int) -> dict[str, float]:
    """CPU-seconds of a step, and of all before the fifth, uncompiled and as a graph."""
    told: dict[str, float] = {}
    runs, spent = {}, {"native": [], "compiled": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        for way in spent:
            experiment = build(recipe, {}, 0)[0]
            fit = replace(experiment.fit, steps=1 << 20, compile=way == "compiled")
            experiment.system.learn(experiment.data.train)
            began = time.process_time() + sum(os.times()[2:4])
            ready(experiment.system, fit)
            runs[way] = run(experiment.system, experiment.data, Progress(fit, 0))
            for _ in range(4):
                next(runs[way])
            told[f"{way} first"] = time.process_time() + sum(os.times()[2:4]) - began
        for i in range(rounds):
            for way in spent if i % 2 else reversed(spent):
                began = time.process_time()
                next(runs[way])
                spent[way].append(time.process_time() - began)
    ratio = statistics.median(native / graph for native, graph in zip(*spent.values(), strict=True))
    return {**told, **{way: statistics.median(seconds) for way, seconds in spent.items()}, "ratio": ratio}


def _choose(native: bool) -> None:
    for module in CALLERS:
        module.fit = rows.fit if native else lambda *a: False  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
