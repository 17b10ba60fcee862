"""One text-to-text model, four tasks: dates put otherwise, summaries, questions on Python, hidden spans; each by its own figure.

    python benchmarks/chores.py [--seeds 0,1] [--budget 600s] [--depth 2] [--keep FOLDER]

t5 is trained by `maquette train` on one thread; the same weights then write for the held-out rows of each task, greedily. Beside
it stand what a user could do without a model: the source itself, and the text of the training row whose source is most like it
(by shared runs of two to four letters, weighed by TF-IDF). Losses included. Writes benchmarks/DATE-chores.md and .json.
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

from maquette.data import open_data
from maquette.data.chores import of_task
from maquette.metrics.intervals import proportion
from maquette.opened import load, turned
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
        held = of_task(data, task).held.columns
        sources, wanted = [str(s) for s in held["source"]], [str(t) for t in held["text"]]
        found["the source"] |= figures(task, wanted, [source.partition(": ")[2] or source for source in sources])
        found["most like it"] |= figures(task, wanted, nearest(data, sources))
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
            held = of_task(data, task).held.columns
            about = {"source": list(held["source"])}
            written = run.system.sample(len(about["source"]), about=about, sampler=greedy)["text"]
            column |= figures(task, [str(t) for t in held["text"]], written)
            rows = zip(about["source"], held["text"], written, strict=True)
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


def figures(task: str, wanted: list[str], written: list[str]) -> dict[str, Any]:
    """What is said of one task's answers."""
    right = sum(a == b for a, b in zip(wanted, written, strict=True))
    scorer = RougeScorer(["rougeL"])
    rouge = sum(scorer.score(a, b)["rougeL"].fmeasure for a, b in zip(wanted, written, strict=True)) / len(wanted)
    found = {f"{task}, exact": list(proportion(right, len(wanted)))}
    return found | {f"{task}, ROUGE-L": 100 * rouge, f"{task}, chrF": CHRF().corpus_score(written, [wanted]).score}


def nearest(data: Any, sources: list[str]) -> list[str]:
    """The text of the training row whose source is most like each."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    told = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=50_000)
    known = told.fit_transform(data.train.columns["source"])
    best = (told.transform(sources) @ known.T).toarray().argmax(1)
    return [data.train.columns["text"][int(i)] for i in best]


if __name__ == "__main__":
    main()
