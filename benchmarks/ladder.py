"""The known-truth ladder: every family on points of the plane whose density is known, held against the truth itself.

    python benchmarks/ladder.py [--seeds 0,1] [--data grid] [--budget 8s] [--keep FOLDER]

Each is trained by `maquette train` in a process of its own on one thread, then scored by metrics/truth.py; what FOLDER holds
already is not done again. Writes benchmarks/DATE-ladder.md and .json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from maquette.compare import pending, run_all, stages
from maquette.data.mixtures import density
from maquette.metrics.truth import quality_of_truth
from maquette.runs import versions

RECIPES: dict[str, dict[str, Any]] = {
    "gan": {"gamma": 0.002, "latent": 2, "depth": 1, "lr": 6e-3, "batch": 256},
    "vae": {"latent": 2, "dropout": 0.0, "lr": 5e-3, "weight_decay": 0.0, "batch": 256},
    "flow": {"likelihood": True, "batch": 256},
    "edm": {"likelihood": True, "batch": 256},
    "ddpm": {"batch": 256},
    "ddim": {"batch": 256},
}
FIGURES = ("modes", "high quality", "nats above truth", "score error")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--data", default="grid")
    asked.add_argument("--budget", default="8s")
    asked.add_argument("--keep", default="", help="keep the runs in this folder")
    asked.add_argument("--jobs", type=int, default=2, help="systems trained side by side")
    given = asked.parse_args()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    entries = []
    for seed in seeds:
        for name, arguments in RECIPES.items():
            place = folder / f"{name}-{given.data}-seed{seed}"
            train, (scoring, command) = stages(name, given.data, place, given.budget, 0, seed, arguments)
            judge = (scoring, [*command, "-n", "4000"])
            entries.append(pending(place, [train, judge]))
    run_all(entries, jobs=given.jobs, quiet=False)
    told = {e.name: json.loads((e.folder / "eval.json").read_text()) for e in entries if (e.folder / "eval.json").exists()}
    path = Path(__file__).parent / f"{date.today()}-ladder.md"
    path.write_text(table(told, given.data, given.budget, given.seeds) + "\n")
    values = {name: {k: m["value"] for k, m in run["metrics"].items()} | {"step": run["step"]} for name, run in told.items()}
    path.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")
    print(path.read_text())
    if not given.keep:
        shutil.rmtree(folder)


def table(told: dict[str, dict[str, Any]], data: str, budget: str, seeds: str) -> str:
    truth = density(data)
    assert truth is not None
    lines = [
        f"# Known truth: {data}, {date.today()}",
        "",
        f"{len(truth.centres)} Gaussians of the plane; {budget} of training each, one thread, batches of 256.",
        f"torch {versions()['torch']}.",
        f"`python benchmarks/ladder.py --seeds {seeds} --data {data} --budget {budget}`",
        f"The truth itself has all modes, a high quality of {quality_of_truth(truth, 0):.3f}, and 0 of the other two.",
        "`vae` has a bound, `flow` and `edm` the exact likelihood by the probability-flow ODE; the others have none.",
        "",
        f"| run | CPU-s | steps | {' | '.join(FIGURES)} |",
        "|---|---|---|" + "---|" * len(FIGURES),
    ]
    for name, run in told.items():
        cells = [_shown(run["metrics"].get(figure)) for figure in FIGURES]
        lines.append(f"| {name} | {run['seconds']:.1f} | {run['step']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(found: dict[str, Any] | None) -> str:
    return "-" if found is None else f"{found['value']:.3f} ({found['low']:.3f} .. {found['high']:.3f})"


if __name__ == "__main__":
    main()
