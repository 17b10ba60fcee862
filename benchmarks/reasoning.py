"""Reasoning learnt from one's own answers: how many are right before and after, alone, by majority and by the best of eight.

    python benchmarks/reasoning.py [--data sums] [--seeds 0,1] [--start 120] [--context 96] [--budget 600s] [--keep FOLDER]

A small network first learns from shown answers alone (reasoner, as many steps as `start`), then from its own, checked by rule
(reasoner --run THAT). Beside it learns a canary, whose reward is the length of an answer and nothing else: what it is rewarded
by rises, and what is wanted must not. `maquette eval` judges all on held-out questions: each answered eight times, drawn at
temperature 1. One thread each; losses included. Writes benchmarks/DATE-reasoning-DATA.md and .json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tables import side_by_side

from maquette.evaluate import choose, judge
from maquette.loading import load
from maquette.metrics.evidence import Evidence
from maquette.runs import build, versions
from maquette.train import Progress, run

HERE = Path(__file__).parent


def lengthy(rows: Sequence[Any], replies: Sequence[str]) -> torch.Tensor:
    """The canary's reward: the longer the better, whatever it says."""
    return torch.tensor([min(len(reply), 60) / 60 for reply in replies])


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", default="sums")
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--start", type=int, default=120)
    asked.add_argument("--context", type=int, default=96)
    asked.add_argument("--budget", default="600s")
    asked.add_argument("--canary", type=int, default=40, help="steps of it; 0 = none")
    asked.add_argument("--allow-code-exec", action="store_true", help="for functions, whose answers are run")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-reasoning-"))
    found: dict[str, dict[str, Any]] = {}
    runs = ["--allow-code-exec"] * given.allow_code_exec
    for seed in map(int, given.seeds.split(",")):
        first = folder / f"start-{seed}"
        base = ["--data", given.data, "--seed", str(seed), *runs]
        shown = ["--start", str(given.start), "--steps", str(given.start), "--context", str(given.context)]
        trained(first, [*base, *shown])
        found[f"start, seed {seed}"] = column(first, runs)
        place = folder / f"reasoner-{seed}"
        trained(place, [*base, "--run", str(first), "--budget", given.budget])
        found[f"reasoner, seed {seed}"] = column(place, runs)
        if given.canary:
            found[f"canary, seed {seed}"] = canary(first, given.data, seed, given.canary, given.allow_code_exec)
    lines = [
        f"# Reasoning learnt from one's own answers, {date.today()}",
        "",
        f"`{given.data}`, {given.start} steps from shown answers in {given.context} symbols, then GRPO by a rule. One thread.",
        f"Made by `python benchmarks/reasoning.py --data {given.data}`, torch {versions()['torch']}.",
        "",
        *side_by_side(found),
    ]
    path = HERE / f"{date.today()}-reasoning-{given.data}.md"
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def trained(place: Path, more: list[str]) -> None:
    """A run, unless it is there already."""
    if not (place / "README.md").exists():
        words = ["train", "reasoner", "--threads", "1", "--out", str(place), "-q", *more]
        subprocess.run([sys.executable, "-m", "maquette", *words], check=True)


def column(place: Path, runs: list[str]) -> dict[str, Any]:
    """What is known of a run: how long it learnt, what it was rewarded by at first and last, what `maquette eval` says."""
    if not (place / "eval.json").exists():
        subprocess.run(
            [sys.executable, "-m", "maquette", "eval", str(place), "--metrics", "solved", "--threads", "1", *runs],
            check=True,
            capture_output=True,
        )
    own = load(place)
    log = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    made = {"commit": own.trained.record["versions"]["git"][:8], "step": own.progress.step, "seconds": own.progress.seconds}
    made |= ends([each["reinforce/reward"] for each in log if "reinforce/reward" in each])
    return made | told(json.loads((place / "eval.json").read_text())["metrics"])


def canary(first: Path, data: str, seed: int, steps: int, executes: bool) -> dict[str, Any]:
    """The same start, rewarded for length alone."""
    torch.manual_seed(seed)
    made = build("reasoner", {"run": str(first), "data": data, "allow_code_exec": executes}, seed)[0]
    made.system.objective.reward = lengthy  # type: ignore[assignment]
    progress = Progress(replace(made.fit, steps=steps), seed)
    worth = [float(logs["reinforce/reward"]) for logs in run(made.system, made.data, progress)]
    found = judge(Evidence(made.data, made.system, seed=seed, executes=executes), choose(["solved"]))["metrics"]
    figures = {name: {"value": each.value, "low": each.low, "high": each.high} for name, each in found.items()}
    return {"step": steps, "seconds": progress.seconds, **ends(worth), **told(figures)}


def ends(worth: list[float]) -> dict[str, str]:
    """The mean reward of the first and of the last tenth of the steps."""
    some = max(1, len(worth) // 10)
    first, last = sum(worth[:some]) / some if worth else 0.0, sum(worth[-some:]) / some if worth else 0.0
    return {"reward at first": f"{first:.3f}", "reward at last": f"{last:.3f}"} if worth else {}


def told(figures: dict[str, Any]) -> dict[str, Any]:
    """What is said of the answers: figure -> [value, low, high]."""
    return {
        name: [each["value"], each["low"], each["high"]]
        for name, each in figures.items()
        if name.startswith(("solved", "gained", "thinking"))
    }


if __name__ == "__main__":
    main()
