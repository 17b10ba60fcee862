"""Thinking that is cut short: how many answers are right by how many symbols of thinking a sampler allows.

    python benchmarks/budget.py RUN [RUN ...] [--budgets 0,4,8,12,16,20,24,-1] [--keep FOLDER]

Runs of reasoner, those that benchmarks/reasoning.py keeps. Each answers 500 held-out questions once, at temperature 1, the same
questions and noise at every budget; once it is spent, what ends thinking is written (samplers/thinking.py), then the answer.
One thread; losses included. Writes benchmarks/DATE-budget-DATA.md and .json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import side_by_side

from maquette.data.checks import check_of, graded
from maquette.data.questions import Questions
from maquette.dials import turned
from maquette.loading import load
from maquette.metrics.evidence import replied
from maquette.metrics.intervals import mean
from maquette.runs import versions

HERE = Path(__file__).parent
ASKED = 500


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("runs", nargs="+", type=Path)
    asked.add_argument("--budgets", default="0,4,8,12,16,20,24,-1")
    asked.add_argument("--keep", default="", help="where what is known of a run is found again")
    given = asked.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for place in given.runs:
        kept = Path(given.keep or tempfile.mkdtemp()) / f"budget-{place.name}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(curve(place, [int(each) for each in given.budgets.split(",")])))
        found[place.name], data = json.loads(kept.read_text())
    lines = [
        f"# Answers by symbols of thinking, {date.today()}",
        "",
        f"`{data}`, {ASKED} held-out questions, one answer each at temperature 1. Symbols are an answer's, what was put in",
        f"to end thinking among them. One thread. Made by `python benchmarks/budget.py`, torch {versions()['torch']}.",
        "",
        *side_by_side(found),
    ]
    path = HERE / f"{date.today()}-budget-{data}.md"
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def curve(place: Path, budgets: list[int]) -> tuple[dict[str, Any], str]:
    """What is right of a run's answers at each budget, -1 being none; and what data it answers."""
    own = load(place, device="cpu")
    held, system, began = own.data.held, own.system, time.process_time()
    assert isinstance(held, Questions)
    places = np.random.default_rng(0).permutation(len(held))[:ASKED].tolist()
    rows, free = [held.fields(i) for i in places], system.sampler
    found: dict[str, Any] = {"commit": own.trained.record["versions"]["git"][:8], "step": own.progress.step}
    for budget in budgets:
        system.sampler = turned(free, {"budget": budget})
        said = [text for *_, text in replied(system, held, places, seed=0)]
        name = "free" if budget < 0 else f"budget {budget}"
        found[f"solved, {name}"] = list(mean(graded(check_of(held.check), rows, said).double().numpy()))
        found[f"symbols, {name}"] = f"{np.mean([len(text) for text in said]):.1f}"
    return found | {"seconds": round(time.process_time() - began)}, own.facts.name


if __name__ == "__main__":
    main()
