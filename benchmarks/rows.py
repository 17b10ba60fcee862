"""What a training step costs with what `maquette/nn/rows.py` does natively, and with PyTorch's own operations in its place.

    python benchmarks/rows.py [--recipes sft,dpo,lamda,t5,clip,dit,mmdit] [--rounds 12]

The same run takes its steps by turns, in one process on one thread, uncompiled; CPU-seconds of a step are medians over rounds,
ratios medians of those within a round. Writes benchmarks/DATE-rows.md and .json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from maquette import api
from maquette.nn import gelu, mlp, norm, positions, rows
from maquette.runs import build, versions
from maquette.train import Progress, ready, run

CALLERS = (norm, positions, gelu, mlp)  # who asks `fit` whether rows are done natively


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--recipes", default="sft,dpo,lamda,t5,clip,dit,mmdit")
    asked.add_argument("--rounds", type=int, default=12)
    given = asked.parse_args()
    torch.set_num_threads(1)
    found = {recipe: measured(recipe, given.rounds) for recipe in given.recipes.split(",")}
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
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
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


def _choose(native: bool) -> None:
    for module in CALLERS:
        module.fit = rows.fit if native else lambda *a: False  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
