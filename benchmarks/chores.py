"""One text-to-text model, four tasks: dates put otherwise, summaries, questions on Python, hidden spans; each by its own figure.

    python benchmarks/chores.py [--seeds 0,1] [--budget 600s] [--depth 2] [--keep FOLDER]

t5 is trained by `maquette train` on one thread; the same weights then write for the held-out rows of each task, greedily. Beside
it stand what a user could do without a model (maquette/baselines.py): the source itself, and the text of the most similar
training row. Losses included. Writes benchmarks/DATE-chores.md and .json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import CHRF
from tables import side_by_side

from maquette.baselines import bare, most_similar
from maquette.data import Data, open_data
from maquette.dials import turned
from maquette.loading import load
from maquette.metrics.intervals import proportion
from maquette.runs import versions

HERE = Path(__file__).parent


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--budget", default="600s")
    asked.add_argument("--depth", type=int, default=2)
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-chores-"))
    data = open_data("chores")
    tasks = sorted({*data.held.columns["task"]})
    found: dict[str, dict[str, Any]] = {"the source": {}, "most like it": {}}
    for task in tasks:
        sources, wanted = held_of(data, task)
        like = most_similar(sources, [str(source) for source in data.train.columns["source"]])
        found["the source"] |= figures(task, wanted, bare(sources))
        found["most like it"] |= figures(task, wanted, [str(data.train.columns["text"][i]) for i in like])
    for seed in map(int, given.seeds.split(",")):
        place = folder / f"t5-{seed}"
        if not (place / "README.md").exists():
            words = ["--budget", given.budget, "--depth", str(given.depth), "--seed", str(seed), "--threads", "1", "-q"]
            subprocess.run([sys.executable, "-m", "maquette", "train", "t5", *words, "--out", str(place)], check=True)
        run = load(place)
        column: dict[str, Any] = {"commit": run.trained.record["versions"]["git"][:8], "step": run.progress.step}
        column["seconds"] = run.progress.seconds
        greedy = turned(run.system.sampler, {"temperature": "0"})
        for task in tasks:
            sources, wanted = held_of(data, task)
            written = run.system.sample(len(sources), about={"source": sources}, sampler=greedy)["text"]
            column |= figures(task, wanted, written)
            rows = zip(sources, wanted, written, strict=True)
            (place / "samples" / f"{task}.txt").write_text("".join(f"{s}\n  wanted {t}\n  wrote  {w}\n" for s, t, w in rows))
        found[f"t5, seed {seed}"] = column
    path = HERE / f"{date.today()}-chores.md"
    lines = [
        f"# One model, four tasks, {date.today()}",
        "",
        "Held-out rows of `chores`, greedily written. Exact: shares with 95 % intervals; ROUGE-L, chrF: 0 to 100.",
        f"One thread. Made by `python benchmarks/chores.py`, torch {versions()['torch']}.",
        "",
        *side_by_side({name: found[name] for name in (*[n for n in found if n.startswith("t5")], "the source", "most like it")}),
    ]
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def held_of(data: Data, task: str) -> tuple[list[str], list[str]]:
    """Held-out sources of a task, and what is wanted of them."""
    columns = data.held.columns
    rows = [
        (str(s), str(t)) for s, t, name in zip(columns["source"], columns["text"], columns["task"], strict=True) if name == task
    ]
    return [source for source, _ in rows], [text for _, text in rows]


def figures(task: str, wanted: list[str], written: list[str]) -> dict[str, Any]:
    """What is said of one task's answers."""
    right = sum(a == b for a, b in zip(wanted, written, strict=True))
    scorer = RougeScorer(["rougeL"])
    rouge = sum(scorer.score(a, b)["rougeL"].fmeasure for a, b in zip(wanted, written, strict=True)) / len(wanted)
    found = {f"{task}, exact": list(proportion(right, len(wanted)))}
    return found | {f"{task}, ROUGE-L": 100 * rouge, f"{task}, chrF": CHRF().corpus_score(written, [wanted]).score}


if __name__ == "__main__":
    main()
