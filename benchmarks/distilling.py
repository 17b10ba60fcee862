"""What a teacher is worth to a small language model: students of one size by data alone, on logits, on samples, on their own.

    python benchmarks/distilling.py [--data stdlib] [--seeds 0,1] [--teacher 300s] [--student 60] [--keep FOLDER]

A teacher (gpt) learns for a budget of training seconds. Then each student learns the same rows from nothing for as many training
seconds as the others, the teacher's forward pass, the student's own texts and those that the teacher wrote before counted; and,
beside that, for as many steps as the one on logits made. What the teacher took to learn is not a student's. Judged by bits per
byte of the held-out text (`maquette eval`'s figure, of its first windows). One thread; losses included. Writes
benchmarks/DATE-distilling.md and .json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tables import cell

from maquette.data.core import Data, Split
from maquette.data.rewritten import Rewritten
from maquette.data.windows import coded
from maquette.evaluate import choose, judge
from maquette.experiment import Experiment
from maquette.loading import load
from maquette.metrics.evidence import Evidence
from maquette.runs import build, versions
from maquette.system import System
from maquette.train import Progress, clock, plan, ready, run

HERE = Path(__file__).parent
WAYS: dict[str, dict[str, Any]] = {
    "data alone": {"share": 1.0},
    "logits": {},
    "logits, half plain": {"share": 0.5},
    "logits, T = 2": {"temperature": 2.0},
    "samples": {"on": "samples"},
    "samples, half data": {"on": "samples", "share": 0.5},
    "own": {"on": "own"},
    "own, JSD": {"on": "own", "beta": 0.5},
}


def taught(place: Path, data: str, budget: str, seed: int, more: list[str]) -> dict[str, Any]:
    """A teacher, unless it is there already; what it took."""
    if not (place / "README.md").exists():
        words = ["train", "gpt", "--data", data, "--budget", budget, "--seed", str(seed), "--out", str(place), *more]
        words = [sys.executable, "-m", "maquette", *words, "--threads", "1", "-q"]
        subprocess.run(words, check=True)
    own = load(place)
    commit = str(own.trained.record["versions"]["git"])[:8]
    return {"steps": own.progress.step, "training seconds": own.progress.seconds, "commit": commit}


def learned(experiment: Experiment, seed: int, seconds: float, steps: int) -> dict[str, Any]:
    """Train a student for so many seconds, or steps where those are given; its loss at first and last, and what it took."""
    system, data = experiment.system, experiment.data
    ready(system, experiment.fit)
    began, spent = clock(system.device), 0.0
    if isinstance(data.train, Rewritten):
        assert len(data.train.written)
        spent = clock(system.device) - began
    left = max(1.0, seconds - spent)
    fit = replace(experiment.fit, steps=steps) if steps else plan(system, data, experiment.fit, left, seed)[0]
    progress, losses = Progress(fit, seed), list[float]()
    for logs in run(system, data, progress):
        losses.append(float(logs["predict/loss"]))
        if not steps and progress.step % 8 == 0:  # the plan is held to what steps take now, whoever else computes here
            progress.fit = replace(fit, steps=max(progress.step, round(progress.step * left / progress.seconds)))
    tenth = max(1, len(losses) // 10)
    ends = [sum(some) / len(some) for some in (losses[:tenth], losses[-tenth:])]
    told = {"steps": progress.step, "training seconds": progress.seconds + spent, "of them the teacher's writing": spent}
    return {**told, "loss at first": f"{ends[0]:.3f}", "loss at last": f"{ends[1]:.3f}"}


def worth(experiment: Experiment, system: System, seed: int, most: int) -> list[float]:
    """Bits per byte of whole held-out texts, as many as fit into `most` bytes, with its interval."""
    texts, held, size = list(experiment.data.held.columns["text"]), list[str](), 0
    for text in texts:
        size += len(str(text).encode())
        held += [str(text)] if not held or size <= most else []
    part = Data(experiment.data.facts, lambda: {"held": Split({"text": held})})
    judged = coded(part, system.codec, int(system.codec.length))  # type: ignore[arg-type]
    found = judge(Evidence(judged, system, seed=seed), choose(["bytes"]))["metrics"]["bits/byte"]
    return [found.value, found.low, found.high]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", default="stdlib")
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--teacher", default="300s")
    asked.add_argument("--student", type=float, default=60.0)
    asked.add_argument("--depth", type=int, default=2)
    asked.add_argument("--pool", type=int, default=512)
    asked.add_argument("--ways", default=",".join(str(i) for i in range(len(WAYS))), help="places in the list of ways")
    asked.add_argument("--held", type=int, default=300_000, help="bytes of held-out text")
    asked.add_argument("--keep", default="")
    asked.add_argument("--gpt", default="", help="further words for the teacher")
    asked.add_argument("--told", action="store_true", help="train nothing: only what the folder keeps")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-distilling-"))
    path = HERE / f"{datetime.date.today()}-distilling"
    names = [list(WAYS)[int(i)] for i in given.ways.split(",")]
    found: dict[str, dict[str, Any]] = {}
    commit = versions()["git"][:8]
    for seed in map(int, given.seeds.split(",")):
        place, steps = folder / f"teacher-{seed}", 0
        facts = taught(place, given.data, given.teacher, seed, given.gpt.split())
        for kind, name in ((kind, name) for kind in ("seconds", "steps") for name in names):
            title = f"{name}, equal {kind}, seed {seed}"
            kept = folder / f"{title}.json"
            if (kind == "steps" and (name == "logits" or not steps)) or (given.told and not kept.exists()):
                continue
            if not kept.exists():
                dials = {"run": str(place), "depth": given.depth, **WAYS[name]}
                dials |= {"pool": given.pool} if WAYS[name].get("on") == "samples" else {}
                made = build("student", dials, seed)[0]
                told = learned(made, seed, given.student, steps if kind == "steps" else 0)
                told |= {"bits/byte": worth(made, made.system, seed, given.held), "commit": commit}
                kept.write_text(json.dumps(told) + "\n")
                if not (best := folder / f"teacher, seed {seed}.json").exists():
                    line = worth(made, made.system.instead("teacher"), seed, given.held)
                    best.write_text(json.dumps({**facts, "bits/byte": line}) + "\n")
            found[f"teacher, seed {seed}"] = json.loads((folder / f"teacher, seed {seed}.json").read_text())
            found[title] = json.loads(kept.read_text())
            steps = int(found[title]["steps"]) if name == "logits" else steps
            print(title, json.dumps(found[title]), flush=True)
            write(path, found, {name: value for name, value in vars(given).items() if name not in ("keep", "gpt", "told")})


def write(path: Path, found: dict[str, Any], given: dict[str, Any]) -> None:
    """The table so far, and the figures it is made of."""
    lines = [f"# Students of a language model, {datetime.date.today()}", "", *(__doc__ or "").strip().splitlines()[4:10], ""]
    figures = list(dict.fromkeys(figure for told in found.values() for figure in told))
    lines += [f"`{given['data']}`, torch {versions()['torch']}.", ""]
    lines += [f"| student | {' | '.join(figures)} |", "|---|" + "---|" * len(figures)]
    lines += [f"| {name} | {' | '.join(cell(told.get(figure)) for figure in figures)} |" for name, told in found.items()]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps({"asked": given, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
