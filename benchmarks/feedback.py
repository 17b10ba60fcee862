"""Three ways to learn from feedback, from one start and for the same CPU-seconds: pairs, a judge and a critic, a judge alone.

    python benchmarks/feedback.py [--seeds 0,1] [--start 60s] [--budget 90s] [--keep FOLDER]

`sft` learns the better answers of `manners`, `reward` to judge both. From there dpo learns from the pairs; ppo, with a critic and
without (GRPO), from its own answers, which the judge scores. Each answers the held-out questions, drawn at temperature 1, beside
the start it departed from: who wins by the rule that made the data, what the judge thinks of it, how often the judge is taken in
(it likes the answer more, the rule less), and how many nats that cost. One thread each; losses included. Writes
benchmarks/DATE-feedback.md and .json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import side_by_side

from maquette.contracts import Turns
from maquette.data.comparisons import Comparisons
from maquette.data.conversations import questions
from maquette.data.manners import rule
from maquette.metrics.intervals import mean
from maquette.metrics.winning import answers, weighed
from maquette.objectives.preference import Judge
from maquette.opened import load
from maquette.runs import versions

HERE = Path(__file__).parent
WAYS = {"dpo": ["dpo"], "ppo": ["ppo"], "grpo": ["ppo", "--no-critic"]}
TIMES = 2  # answers to each question


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--start", default="60s")
    asked.add_argument("--budget", default="90s")
    asked.add_argument("--steps", default="", help="in place of a budget, of each way: 80,10,12")
    asked.add_argument("--ways", default=",".join(WAYS))
    asked.add_argument("--more", default="", help="options of ppo, such as '--beta 0.1'")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-feedback-"))
    found: dict[str, dict[str, Any]] = {}
    for seed in map(int, given.seeds.split(",")):
        first, judge = folder / f"sft-{seed}", folder / f"reward-{seed}"
        trained(first, ["sft", "--data", "manners", "--seed", str(seed), "--budget", given.start])
        trained(judge, ["reward", "--seed", str(seed), "--budget", given.start])
        for way, steps in zip_longest(given.ways.split(","), filter(None, given.steps.split(","))):
            place, words = folder / f"{way}-{seed}", [*WAYS[way], "--run", str(first), "--seed", str(seed)]
            words += ["--judge", str(judge), *given.more.split()] if WAYS[way][0] == "ppo" else []
            trained(place, [*words, *(["--steps", steps] if steps else ["--budget", given.budget])])
            found[f"{way}, seed {seed}"] = column(place, judge, seed)
    spent = f"{given.steps} steps" if given.steps else given.budget
    lines = [
        f"# Three ways to learn from feedback, {date.today()}",
        "",
        f"`manners`; sft and reward {given.start} of training each, then {spent} of each way. One thread. Made by",
        f"`python benchmarks/feedback.py`, torch {versions()['torch']}.",
        "",
        *side_by_side(found),
    ]
    path = HERE / f"{date.today()}-feedback.md"
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def trained(place: Path, words: list[str]) -> None:
    """A run, unless it is there already."""
    if not (place / "README.md").exists():
        subprocess.run(
            [sys.executable, "-m", "maquette", "train", *words, "--threads", "1", "--out", str(place), "-q"], check=True
        )


def column(place: Path, judge: Path, seed: int) -> dict[str, Any]:
    """What is known of a run: how long it learnt, its last loss, and what its answers come to beside its start's."""
    own, by = load(place, device="cpu"), load(judge, device="cpu").system
    held = own.data.held
    assert isinstance(held, Comparisons)
    asked: list[Turns] = list({str(turns): turns for turns in questions(held.talks)[0]}.values()) * TIMES
    said = [str(turns[-1]["content"]) for turns in asked]
    system = own.system.eval()
    both = [answers(one, held, asked, seed) for one in (system, system.instead("reference"))]
    good = [np.array([rule(q, text) for q, text in zip(said, each, strict=True)]) for each in both]
    liked = [Judge(by)([{"turns": turns} for turns in asked], each).double().numpy() for each in both]
    far, _ = weighed(system, held, asked, both[0])
    last = own.trained.rows()[-1]
    losses = {name: value for name, value in last.items() if name.endswith("loss")}
    told = {
        "win rate": (np.sign(good[0] - good[1]) + 1) / 2,
        "rule score": good[0],
        "rule score of the start": good[1],
        "judge's score": liked[0],
        "judge's score of the start": liked[1],
        "gamed": ((liked[0] > liked[1]) & (good[0] < good[1])).astype(float),
        "KL to the start": far,
        "characters": np.array([float(len(text)) for text in both[0]]),
    }
    made = {"commit": own.trained.record["versions"]["git"][:8], "step": own.progress.step, "seconds": own.progress.seconds}
    made |= {f"last {name}": f"{value:.3f}" for name, value in losses.items() if "_" not in name}
    return made | {name: list(mean(values)) for name, values in told.items()}


if __name__ == "__main__":
    main()
