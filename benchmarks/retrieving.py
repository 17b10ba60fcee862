"""embedder on texts that belong together: does it find a held-out row's counterpart, and better than the words that both share?

    python benchmarks/retrieving.py [--data documented,apiqa] [--seeds 0] [--budget 150s] [--keep FOLDER]

Each seed is trained by `maquette train` on one thread, and judged by maquette/metrics/retrieval.py, as BM25 is on the same rows
(maquette/baselines.py). Both together, as `maquette search` has it: the sum of the two scores, each brought to deviation 1 over
what is to be found.
95 % by Wilson over rows. Losses included. Writes benchmarks/DATE-retrieving.md and .json.
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
from tables import side_by_side
from torch import Tensor

from maquette.baselines import shared
from maquette.contracts import Comparing
from maquette.data import open_data
from maquette.loading import load
from maquette.metrics import retrieval
from maquette.metrics.bm25 import joined
from maquette.metrics.evidence import Evidence
from maquette.runs import versions

HERE, SIDES = Path(__file__).parent, ("source", "text")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", default="documented")
    asked.add_argument("--seeds", default="0")
    asked.add_argument("--budget", default="150s")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-retrieving-"))
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for name in given.data.split(","):
        evidence = Evidence(open_data(name), writes=list)
        words = shared(evidence.data)
        told[name] = {"BM25": shares(evidence, words)}
        for seed in map(int, given.seeds.split(",")):
            place = folder / f"{name}-seed{seed}"
            if not (place / "README.md").exists():
                line = [
                    "--data",
                    name,
                    "--budget",
                    given.budget,
                    "--seed",
                    str(seed),
                    "--threads",
                    "1",
                    "--out",
                    str(place),
                    "-q",
                ]
                subprocess.run([sys.executable, "-m", "maquette", "train", "embedder", *line], check=True)
            run = load(place)
            system = run.system.eval()
            assert isinstance(system.objective, Comparing)
            parts = [system.objective.embed(system, part) for part in _parts(evidence)]
            vectors = {side: torch.cat([part[side].cpu() for part in parts]) for side in SIDES}
            rows = [row for row in run.trained.rows() if "match/loss" in row]
            own = near_of(vectors)
            column: dict[str, Any] = shares(evidence, own) | {"step": run.progress.step, "seconds": run.progress.seconds}
            column["commit"] = run.trained.record["versions"]["git"][:8]
            column["matched of a training batch, at last, %"] = (
                100 * sum(row["match/matched"] for row in rows[-20:]) / len(rows[-20:])
            )
            told[name][f"embedder, seed {seed}"] = {**column, "losses": [[row["step"], row["match/loss"]] for row in rows]}
            told[name][f"both, seed {seed}"] = shares(evidence, both(own, words))
    path = HERE / f"{date.today()}-retrieving.md"
    path.write_text("\n".join(report(told)) + "\n")
    path.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    print(path.read_text())


def _parts(evidence: Evidence) -> list[dict[str, Any]]:
    held = evidence.held
    return [{side: held[side][at : at + 256] for side in SIDES} for at in range(0, len(held["text"]), 256)]


def near_of(vectors: dict[str, Tensor]) -> retrieval.Near:
    return lambda asked, kept, rows: vectors[asked][rows] @ vectors[kept][rows].T


def both(*some: retrieval.Near) -> retrieval.Near:
    return lambda asked, kept, rows: joined(*(each(asked, kept, rows) for each in some))


def shares(evidence: Evidence, near: retrieval.Near) -> dict[str, Any]:
    found = retrieval.retrieval(evidence, SIDES, near)
    return {name: [each.value, each.low, each.high] for name, each in found.items()}


def report(told: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    lines = [
        f"# embedder, {date.today()}",
        "",
        "Held-out rows whose own counterpart is the closest, or among the ten closest, of 100 or 1,000 that all differ.",
        f"95 % by Wilson over rows. One thread. Made by `python benchmarks/retrieving.py`, torch {versions()['torch']}.",
    ]
    for name, columns in told.items():
        shown = {who: {key: value for key, value in column.items() if key != "losses"} for who, column in columns.items()}
        lines += ["", f"## {name}", "", *side_by_side(shown)]
    return lines


if __name__ == "__main__":
    main()
