"""Masked language models: hidden words guessed, and what pre-training is worth for a classifier of few labels.

    python benchmarks/words.py [--seeds 0,1] [--data docstrings] [--budget 600s] [--labels 100]
        [--vocab 4096] [--asked 0.15] [--keep FOLDER]

bert is trained by `maquette train` on one thread; `masked words` is maquette/metrics/cloze.py's. Beside it stands a floor made
here from counts: the likeliest word between the two before and the two behind, seen in the training text, backing off to one on
each side, to one, to none (on the same words of the same windows). Then text_classifier learns some labels from bert's network
and from nothing, with equal steps; the difference has a 95 % interval over held-out rows. Losses included.
Writes benchmarks/DATE-words.md and .json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import side_by_side

from maquette.data import open_data
from maquette.loading import load
from maquette.metrics.intervals import mean, proportion
from maquette.runs import versions

HERE = Path(__file__).parent
SHARE = 0.15


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--data", default="docstrings")
    asked.add_argument("--budget", default="600s")
    asked.add_argument("--labels", type=int, default=100)
    asked.add_argument("--steps", type=int, default=150)
    asked.add_argument("--depth", type=int, default=4)
    asked.add_argument("--vocab", type=int, default=4096)
    asked.add_argument("--asked", type=float, default=0.15)
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-words-"))
    floor = counted(given.data)
    found: dict[str, dict[str, Any]] = {}
    for seed in map(int, given.seeds.split(",")):
        run = folder / f"bert-{seed}"
        dials = ["--data", given.data, "--depth", str(given.depth), "--vocab", str(given.vocab), "--asked", str(given.asked)]
        trained(run, "bert", seed, ["--budget", given.budget, *dials])
        told = scored(run)
        some = ["--rows", str(given.labels), "--steps", str(given.steps)]
        pair = []
        for name, more in (("tuned", ["--run", str(run)]), ("scratch", ["--depth", str(given.depth)])):
            place = folder / f"{name}-{seed}"
            trained(place, "text_classifier", seed, [*some, *more])
            pair.append(hits(place))
        own = load(run)
        column = {"commit": own.trained.record["versions"]["git"][:8], "step": own.progress.step, "seconds": own.progress.seconds}
        column |= {"masked words": told["masked words"], "masked words by counts": floor}
        column |= {f"accuracy, {given.labels} labels": share(pair[0]), "the same from nothing": share(pair[1])}
        column["tuned - from nothing"] = list(mean((pair[0].double() - pair[1].double()).numpy()))
        found[f"seed {seed}"] = column
    path = HERE / f"{date.today()}-words.md"
    lines = [
        f"# Masked words, {date.today()}",
        "",
        f"`bert` on `{given.data}`, depth {given.depth}, {given.vocab:,} symbols, {given.asked:.0%} of them asked in training;",
        "15 % of a held-out window's words hidden together. `text_classifier` on",
        f"`packages`, {given.labels} labels, {given.steps} steps. One thread. Made by `python benchmarks/words.py`,",
        f"torch {versions()['torch']}.",
        "",
        *side_by_side(found),
    ]
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def trained(place: Path, recipe: str, seed: int, more: list[str]) -> None:
    """A run, unless it is there already."""
    if not (place / "README.md").exists():
        words = ["train", recipe, "--seed", str(seed), "--threads", "1", "--out", str(place), "-q", *more]
        subprocess.run([sys.executable, "-m", "maquette", *words], check=True)


def scored(place: Path) -> dict[str, Any]:
    """What `maquette eval` says of a run: figure -> [value, low, high]."""
    if not (place / "eval.json").exists():
        subprocess.run([sys.executable, "-m", "maquette", "eval", str(place), "--threads", "1"], check=True, capture_output=True)
    told = json.loads((place / "eval.json").read_text())["metrics"]
    return {name: [each["value"], each["low"], each["high"]] for name, each in told.items()}


@torch.no_grad()
def hits(place: Path) -> torch.Tensor:
    """Which held-out rows a classifier names rightly: bool[N]."""
    run = load(place)
    system, found = run.system.eval(), []
    for part in torch.arange(len(run.data.held)).split(64):
        batch = run.data.held.rows(part)
        found.append(system.objective.logits(system, batch).argmax(1) == batch["label"])  # type: ignore[operator]
    return torch.cat(found)


def share(right: torch.Tensor) -> list[float]:
    return list(proportion(int(right.sum()), len(right)))


def counted(data: str, most: int = 20_000) -> list[float]:
    """The floor: words guessed from counts of the words around them, each hidden by itself."""
    opened = open_data(data)
    tables: list[dict[tuple[str, ...], Counter[str]]] = [defaultdict(Counter) for _ in range(4)]
    for text in opened.train.columns["text"]:
        words = ["", "", *re.findall(r"[^\W\d]+", str(text)), "", ""]
        for i in range(2, len(words) - 2):
            for table, key in zip(tables, keys(words, i), strict=True):
                table[key][words[i]] += 1
    best = [{key: counter.most_common(1)[0][0] for key, counter in table.items()} for table in tables]
    right, rng = [], np.random.default_rng(0)
    for text in opened.held.columns["text"]:
        words = ["", "", *re.findall(r"[^\W\d]+", str(text)), "", ""]
        for i in range(2, len(words) - 2):
            if rng.random() < SHARE:
                guess = next(table[key] for table, key in zip(best, keys(words, i), strict=True) if key in table)
                right.append(guess == words[i])
        if len(right) >= most:
            break
    return list(proportion(sum(right), len(right)))


def keys(words: list[str], i: int) -> list[tuple[str, ...]]:
    """What stands around a word, from the most to the least."""
    a, b, c, d = words[i - 2], words[i - 1], words[i + 1], words[i + 2]
    return [(a, b, c, d), (b, c), (b,), ()]


if __name__ == "__main__":
    main()
