"""clip on scenes: do held-out pictures and captions find each other? Pairs of colour and shape that no training row has.

    python benchmarks/contrastive.py [--seeds 0,1] [--budget 120s] [--keep FOLDER]

Each seed is trained by `maquette train` on one thread, and judged by maquette/metrics/retrieval.py: 95 % intervals over rows,
seeds side by side. Losses included. Writes benchmarks/DATE-contrastive.md and .json.
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

from maquette.evaluate import undisturbed
from maquette.metrics import retrieval
from maquette.metrics.evidence import Evidence
from maquette.opened import load
from maquette.runs import Run, versions

BAR = 0.60  # retrieval@1 of 100 in both directions


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--budget", default="120s")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-contrastive-"))
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for seed in map(int, given.seeds.split(",")):
        place = folder / f"clip-seed{seed}"
        if not (place / "README.md").exists():
            words = ["train", "clip", "--budget", given.budget, "--seed", str(seed), "--threads", "1", "--out", str(place), "-q"]
            subprocess.run([sys.executable, "-m", "maquette", *words], check=True)
        found[f"seed {seed}"] = judged(place)
    path = Path(__file__).parent / f"{date.today()}-contrastive.md"
    commits = dict.fromkeys(Run.open(place).record["versions"]["git"][:8] for place in sorted(folder.glob("clip-seed*")))
    path.write_text(table(found, list(commits)) + "\n")
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
    told["retrieval rows"] = next(iter(figures.values())).n
    told |= {f"{name} at the end": rows[-1][f"match/{name}"] for name in ("loss", "matched", "scale")}
    told["losses"] = [[row["step"], row["match/loss"]] for row in rows if "match/loss" in row]
    return told


def table(found: dict[str, dict[str, Any]], commits: list[str]) -> str:
    """A row per figure, a column per seed."""
    figures = list(dict.fromkeys(figure for told in found.values() for figure in told if figure != "losses"))
    lines = [
        f"# clip on scenes, {date.today()}",
        "",
        "Held-out rows: pairs of colour and shape never seen together. retrieval@1: among 100 rows whose captions all differ,",
        f"chance .01; the bar is {BAR:g}. zero-shot: ten shapes, chance .1, told by the name alone or by the mean of training",
        "captions that name it. 95 % intervals over rows. Loss (nats) and share matched are of a training batch of 256.",
        f"One thread. Made by `python benchmarks/contrastive.py`, torch {versions()['torch']}, trained at {', '.join(commits)}.",
        "",
        f"| figure | {' | '.join(found)} |",
        "|---|" + "---|" * len(found),
    ]
    for figure in figures:
        lines.append(f"| {figure} | {' | '.join(_cell(told.get(figure)) for told in found.values())} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value[0]:.3f} ({value[1]:.3f} .. {value[2]:.3f})" if isinstance(value, list) else f"{value:.4g}"


if __name__ == "__main__":
    main()
