"""A step of Muon, many matrices to a call, beside torch's, which takes one after the other: the hidden matrices of some recipes.

    python benchmarks/muon.py [--recipes gpt,dpo,mmdit,maskgit,dit] [--rounds 40]

Both take the same gradients in turn, on one thread; CPU-milliseconds are medians over rounds, ratios medians of those within a
round. How far the weights are apart at last is told as a share of how far they have gone.
Writes benchmarks/DATE-muon.md and .json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maquette.muon import Muon
from maquette.runs import build, versions
from maquette.train import build_optimizers


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--recipes", default="gpt,dpo,mmdit,maskgit,dit")
    asked.add_argument("--rounds", type=int, default=40)
    given = asked.parse_args()
    torch.set_num_threads(1)
    found = {recipe: measured(recipe, given.rounds) for recipe in given.recipes.split(",")}
    path = Path(__file__).parent / f"{date.today()}-muon.md"
    lines = [
        f"# A step of Muon, {date.today()}",
        "",
        "CPU-milliseconds on one thread, medians; the same gradients in turn. Apart: how far the weights are from each other at",
        f"last, of how far they have gone. {given.rounds} rounds. Made by `python benchmarks/muon.py`,",
        f"torch {versions()['torch']}.",
        "",
        "| recipe | matrices | shapes | maquette | torch | torch over maquette | apart |",
        "|---|---|---|---|---|---|---|",
    ]
    for recipe, told in found.items():
        spent = " | ".join(f"{told[key]:.1f}" for key in ("ours ms", "torch ms"))
        counts = f"{told['matrices']} | {told['shapes']}"
        lines.append(f"| `{recipe}` | {counts} | {spent} | **{told['ratio']:.2f}x** | {told['apart']:.3f} |")
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def measured(recipe: str, rounds: int) -> dict[str, Any]:
    """Both optimizers over the matrices that this recipe's main network gives to Muon."""
    experiment = build(recipe, {}, 0)[0]
    learners = {"main": experiment.system.nets["main"]}
    taken = [each for each in build_optimizers(learners, experiment.fit) if isinstance(each, Muon)]
    first = [p.detach().clone() for each in taken for group in each.param_groups for p in group["params"]]
    learn = {kind: [nn.Parameter(p.clone()) for p in first] for kind in (Muon, torch.optim.Muon)}
    both = {kind: kind(ps, lr=experiment.fit.muon, weight_decay=0.0, adjust_lr_fn="original") for kind, ps in learn.items()}
    spent: dict[type, list[float]] = {kind: [] for kind in both}
    for i in range(rounds + 2):  # the first two allocate
        grads = [torch.randn_like(p) for p in first]
        for kind in both if i % 2 else reversed(both):
            for p, grad in zip(learn[kind], grads, strict=True):
                p.grad = grad
            began = time.process_time()
            both[kind].step()
            spent[kind].append(1e3 * (time.process_time() - began))
    ours, theirs = spent[Muon][2:], spent[torch.optim.Muon][2:]
    with torch.no_grad():
        gone = sum(float((b - p).square().sum()) for b, p in zip(learn[torch.optim.Muon], first, strict=True))
        apart = sum(float((a - b).square().sum()) for a, b in zip(*learn.values(), strict=True))
    return {
        "matrices": len(first),
        "shapes": len({p.shape for p in first}),
        "ours ms": statistics.median(ours),
        "torch ms": statistics.median(theirs),
        "ratio": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
        "apart": (apart / gone) ** 0.5,
    }


if __name__ == "__main__":
    main()
