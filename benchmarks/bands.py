"""Every system from one command on its own default data, held to its band; two seeds, losses included.

    python benchmarks/bands.py [--seeds 0,1] [--recipes edm,vq_vae] [--keep FOLDER] [--jobs 1] [--only-table]

Each is trained for the recipe's own time (`Experiment.within`, a minute for most) by `maquette train` in a process of its own on
one thread, then scored by `maquette eval`; what FOLDER holds already is not done again. The bands are the recipes' own
(`Experiment.expected`), which `make slow` holds seed 0 to.
Writes benchmarks/DATE-bands.md and .json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from maquette import recipes
from maquette.compare import pending, run_all, stages
from maquette.runs import Run, build, versions

MOST = 2000  # samples to judge by: some draw ten in a second


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--recipes", default=",".join(recipes.catalogue()))
    asked.add_argument("--keep", default="", help="keep the runs in this folder")
    asked.add_argument("--jobs", type=int, default=1, help="systems trained side by side")
    asked.add_argument("--only-table", action="store_true", help="train nothing: tell what FOLDER holds")
    given = asked.parse_args()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-bands-"))
    folder.mkdir(parents=True, exist_ok=True)
    names, seeds = given.recipes.split(","), [int(seed) for seed in given.seeds.split(",")]
    entries = []
    for seed in seeds:
        for name in names:
            place = folder / f"{name}-seed{seed}"
            data = recipes.signature(recipes.find(name))["data"]
            whole = build(name, {}, 0)[0]
            n = min(MOST, whole.data.facts.rows["train"])
            entries.append(pending(place, stages(name, str(data), place, f"{whole.within}s", 0, seed, {}, n)))
    if not given.only_table:
        run_all(entries, jobs=given.jobs, quiet=False)
    places = {(name, seed): folder / f"{name}-seed{seed}" / "eval.json" for name in names for seed in seeds}
    told = {key: json.loads(place.read_text()) for key, place in places.items() if place.exists()}
    path = Path(__file__).parent / f"{date.today()}-bands.md"
    path.write_text(table(names, seeds, folder, told, {e.name: e.error for e in entries}) + "\n")
    values: dict[str, dict[str, dict[str, float]]] = {}
    for (name, seed), run in told.items():
        plain = {key: figure["value"] for key, figure in run["metrics"].items()}
        plain |= {"samples/s": run["samples_per_second"]} if run["samples_per_second"] else {}
        values.setdefault(name, {})[str(seed)] = {**plain, "seconds": run["seconds"], "step": run["step"]}
    path.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")
    print(path.read_text())


def table(names: list[str], seeds: list[int], folder: Path, told: dict[tuple[str, int], Any], errors: dict[str, str]) -> str:
    """Each band beside what was measured, and every figure of every run."""
    commits = dict.fromkeys(Run.open(folder / f"{name}-seed{seed}").record["versions"]["git"][:8] for name, seed in told)
    lines = [
        f"# Every system from one command, {date.today()}",
        "",
        "One command each, default data, one thread; CPU-seconds are the training loop's process time. Losses included.",
        f"Made by `python benchmarks/bands.py`, torch {versions()['torch']}; trained at commits {', '.join(commits)}.",
        "",
        "| system | data | CPU-s | figure | band | " + " | ".join(f"seed {seed}" for seed in seeds) + " | held |",
        "|---|---|---|---|---|" + "---|" * len(seeds) + "---|",
    ]
    for name in names:
        runs = [told.get((name, seed)) for seed in seeds]
        spent = " / ".join(f"{run['seconds']:.0f}" if run else "-" for run in runs)
        experiment = build(name, {}, 0)[0]
        data = experiment.data.facts.name
        for figure, (low, high) in (experiment.expected or {}).items():
            found = [run["metrics"].get(figure) if run else None for run in runs]
            cells = [f"{f['value']:.3f} ({f['low']:.3f} .. {f['high']:.3f})" if f else "-" for f in found]
            known = [low <= f["value"] <= high for f in found if f]
            held = ("yes" if all(known) else "**no**") + (", one seed" if len(known) == 1 else "") if known else "not run"
            lines.append(f"| `{name}` | {data} | {spent} | {figure} | {low} .. {high} | {' | '.join(cells)} | {held} |")
    lines += ["", "## Everything measured", ""]
    for name, seed in ((n, s) for n in names for s in seeds):
        run = told.get((name, seed))
        if run is None:
            lines.append(f"- `{name}`, seed {seed}: {errors.get(f'{name}-seed{seed}') or 'not run'}")
            continue
        figures = "; ".join(f"{key} {f['value']:.3f} ({f['low']:.3f} .. {f['high']:.3f})" for key, f in run["metrics"].items())
        lines.append(f"- `{name}`, seed {seed}: {run['step']} steps, {run['seconds']:.1f} CPU-s. {figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
