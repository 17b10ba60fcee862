"""clip on captioned pictures: do held-out pictures and captions find each other? What was held out was never seen together.

    python benchmarks/contrastive.py [--data scenes,characters,emoji] [--seeds 0,1] [--budget 120s] [--keep FOLDER [--kept]]

Each seed is trained by `maquette train` on one thread, and judged by maquette/metrics/retrieval.py: 95 % intervals over rows,
seeds side by side, beside a lookup that learns nothing. Losses included. Writes benchmarks/DATE-contrastive.md and .json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.data import Data, open_data
from maquette.evaluate import undisturbed
from maquette.loading import load
from maquette.metrics import retrieval
from maquette.metrics.evidence import MOST, Evidence
from maquette.metrics.intervals import proportion
from maquette.runs import Run, versions

BAR = 0.60  # retrieval@1 of 100 in both directions, on scenes
WORDS = {"characters": 24, "emoji": 24}  # symbols read of a caption, where the recipe's default is too few for names
WAYS = ("retrieval@1 of 100, text to image", "retrieval@1 of 100, image to text")
LOOKUP = "lookup"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", default="scenes,characters,emoji")
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--budget", default="120s")
    asked.add_argument("--keep", default="")
    asked.add_argument("--kept", action="store_true", help="judge the runs that FOLDER has; train none")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-contrastive-"))
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    commits: dict[str, None] = {}
    for data in given.data.split(","):
        found[data] = {}
        for seed in map(int, given.seeds.split(",")):
            place = folder / f"{data}-seed{seed}"
            if not (place / "README.md").exists():
                if given.kept:
                    continue
                words = ["train", "clip", "--data", data, "--words", str(WORDS.get(data, 16)), "--budget", given.budget]
                words += ["--seed", str(seed), "--threads", "1", "--out", str(place), "-q"]
                subprocess.run([sys.executable, "-m", "maquette", *words], check=True)
            found[data][f"seed {seed}"] = judged(place)
            commits[Run.open(place).record["versions"]["git"][:8]] = None
        found[data][LOOKUP] = looked_up(open_data(data))
    path = Path(__file__).parent / f"{date.today()}-contrastive.md"
    path.write_text(report(found, list(commits)) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def judged(place: Path) -> dict[str, Any]:
    """Every figure of one run, as value, low, high; the losses; what it cost."""
    run = load(place)
    rows = run.run.rows()
    with undisturbed(run.system):
        figures = retrieval.measure(Evidence(run.data, run.system))
    told: dict[str, Any] = {"steps": run.progress.step, "training CPU-seconds": run.progress.seconds}
    told |= {name: [each.value, each.low, each.high] for name, each in figures.items()}
    told["retrieval rows"] = figures[WAYS[0]].n
    if run.data.facts.classes:
        told["zero-shot, chance"] = 1 / len(run.data.facts.classes)
    told |= {f"{name} at the end": rows[-1][f"match/{name}"] for name in ("loss", "matched", "scale")}
    told["losses"] = [[row["step"], row["match/loss"]] for row in rows if "match/loss" in row]
    return told


def looked_up(data: Data, seed: int = 0) -> dict[str, Any]:
    """The same hundreds found without learning, by the nearest training row.

    Image to text: the nearest training picture, pixel by pixel; then the caption that shares the largest part of its words with
    that one's. Text to image: the training caption of the largest shared part; then the picture nearest to its pictures' mean.
    A tie is not found.
    """
    train = data.train.all()
    held = data.held.rows(torch.arange(min(MOST, len(data.held))))
    known, asked = (each["image"].flatten(1) for each in (train, held))
    groups = retrieval.grouped([held["text"]], 100, seed)
    captions = list(dict.fromkeys(train["text"]))
    place = {text: i for i, text in enumerate(captions)}
    of = torch.tensor([place[text] for text in train["text"]])
    means = torch.zeros(len(captions), known.shape[1]).index_add_(0, of, known) / torch.bincount(of)[:, None]
    said = shared(held["text"], captions)  # [held rows, training captions]
    nearest = torch.cat([distances(part, known).argmin(1) for part in asked.split(256)])
    likely, seen = of[nearest], means[said.argmax(1)]
    words = shared([captions[i] for i in likely.tolist()], held["text"])
    right = {WAYS[0]: [], WAYS[1]: []}
    for group in groups:
        right[WAYS[0]].append(diagonal_wins(-distances(seen[group], asked[group])))
        right[WAYS[1]].append(diagonal_wins(words[group][:, group]))
    counted = {name: torch.cat(some) for name, some in right.items()}
    told: dict[str, Any] = {name: list(proportion(int(some.sum()), len(some))) for name, some in counted.items()}
    return told | {"retrieval rows": groups.numel(), "captions": len(set(held["text"]))}


def shared(one: list[str], other: list[str]) -> Tensor:
    """The part of two captions' words that both have: float[len(one), len(other)]."""
    vocabulary = {word: i for i, word in enumerate(sorted({w for text in (*one, *other) for w in spelt(text)}))}
    bags = [torch.zeros(len(texts), len(vocabulary)) for texts in (one, other)]
    for bag, texts in zip(bags, (one, other), strict=True):
        for i, text in enumerate(texts):
            bag[i, [vocabulary[word] for word in spelt(text)]] = 1
    both = bags[0] @ bags[1].T
    return both / (bags[0].sum(1)[:, None] + bags[1].sum(1) - both)


def spelt(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+|[0-9]", text.lower()))


def distances(one: Tensor, other: Tensor) -> Tensor:
    """Squared, up to a constant per row of `one`."""
    return other.square().sum(1) - 2 * one @ other.T


def diagonal_wins(scores: Tensor) -> Tensor:
    own = scores.diagonal()
    return own > scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), float("-inf")).amax(1)


def report(found: dict[str, dict[str, dict[str, Any]]], commits: list[str]) -> str:
    """A table per set: a row per figure, a column per seed, and the lookup."""
    lines = [
        f"# clip on captioned pictures, {date.today()}",
        "",
        "retrieval@1: among 100 held-out rows whose captions all differ (no hundred has two renderings of one caption),",
        f"chance .01; the bar on scenes is {BAR:g}. 95 % intervals over rows; several rows share a caption: they are too narrow.",
        "zero-shot: a class told by its name alone, or by the mean of training captions that name it. Loss (nats) and share",
        "matched are of a training batch of 256. lookup learns nothing: the nearest training picture, then the caption that",
        "shares most words with its; and the other way about.",
        "",
        "Held out are: of scenes, pairs of colour and shape never seen together; of characters and emoji, ones never seen,",
        "together with all that look alike, whose names are put together from words of training names.",
        "",
        f"One thread. Made by `python benchmarks/contrastive.py`, torch {versions()['torch']}, trained at {', '.join(commits)}.",
    ]
    for data, columns in found.items():
        figures = list(dict.fromkeys(figure for told in columns.values() for figure in told if figure != "losses"))
        lines += ["", f"## {data}", "", f"| figure | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
        for figure in figures:
            lines.append(f"| {figure} | {' | '.join(_cell(told.get(figure)) for told in columns.values())} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value[0]:.3f} ({value[1]:.3f} .. {value[2]:.3f})" if isinstance(value, list) else f"{value:.4g}"


if __name__ == "__main__":
    main()
