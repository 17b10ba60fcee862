"""The digits bars: every image family trained for its budget and scored, two seeds, losses included.

    python benchmarks/digits.py [--seeds 0,1] [--recipes flow,gan] [--keep FOLDER]

Each system is trained by `maquette train` in a process of its own on one thread, then scored by `maquette eval`; what FOLDER
holds already is not done again.
Writes benchmarks/DATE-digits.md.
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
from maquette.runs import Run, versions

BUDGET = {"vae": 30, "flow": 60, "pixelcnn": 60, "gan": 60, "maskgit": 120, "ddpm": 60}

# recipe -> [(figure, at most / at least, bar, aim)]; the figures' names are those of eval.json, matched by prefix
BARS: dict[str, list[tuple[str, str, float | None, float | None]]] = {
    "pixelcnn": [("bits/dim", "<=", 1.90, 1.75)],
    "flow": [
        ("FD-", "<=", 0.90, 0.65),
        ("GAN-train", ">=", 0.945, None),
        ("C2ST forest", "<=", 0.75, 0.60),
        ("NN distance", ">=", 1.0, None),
    ],
    "vae": [
        ("bits/dim given label", "<=", 1.92, None),
        ("bits/dim IWAE-100 given label", "<=", 1.87, 1.75),
        ("FD-", "<=", 1.25, 0.80),
    ],
    "gan": [
        ("FD-", "<=", 1.5, 1.0),
        ("GAN-train", ">=", 0.945, None),
        ("NN distance", ">=", 0.92, None),
        ("recall", ">=", None, 0.6),
    ],
    "maskgit": [("FD-", "<=", 1.3, 1.0), ("GAN-train", ">=", 0.88, 0.94)],
    "ddpm": [],
}


def figure(metrics: dict[str, Any], name: str) -> tuple[str, dict[str, Any]] | None:
    """The metric of that name, or the first whose name begins so."""
    if name in metrics:
        return name, metrics[name]
    return next(((key, value) for key, value in metrics.items() if key.startswith(name)), None)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--recipes", default=",".join(BUDGET))
    asked.add_argument("--keep", default="", help="keep the runs in this folder")
    asked.add_argument("--jobs", type=int, default=2, help="systems trained side by side")
    given = asked.parse_args()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    names, seeds = given.recipes.split(","), [int(seed) for seed in given.seeds.split(",")]
    entries = []
    for seed in seeds:
        for name in sorted(names, key=lambda name: -BUDGET[name]):
            place = folder / f"{name}-seed{seed}"
            train, judge = stages(name, "digits", place, f"{BUDGET[name]}s", 0, seed, {})
            entries.append(pending(place, [train, judge]))
    run_all(entries, jobs=given.jobs, quiet=False)
    path = Path(__file__).parent / f"{date.today()}-digits.md"
    path.write_text(table(names, seeds, folder, {e.name: e.error for e in entries}) + "\n")
    values = {name: {str(seed): plain for seed in seeds if (plain := flat(folder / f"{name}-seed{seed}"))} for name in names}
    path.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")
    print(path.read_text())
    if not given.keep:
        shutil.rmtree(folder)


def flat(folder: Path) -> dict[str, float]:
    """A run's figures as plain numbers, with what they cost; {} where it failed."""
    path = folder / "eval.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    return (
        {**{k: e["value"] for k, e in told["metrics"].items()}, "seconds": told["seconds"], "step": told["step"]} if told else {}
    )


def table(names: list[str], seeds: list[int], folder: Path, errors: dict[str, str]) -> str:
    """Every figure of every run, and each bar beside what was measured."""
    told: dict[tuple[str, int], dict[str, Any]] = {}
    for name in names:
        for seed in seeds:
            path = folder / f"{name}-seed{seed}" / "eval.json"
            if path.exists():
                told[name, seed] = json.loads(path.read_text())
    found = versions()
    made = [Run.open(folder / f"{name}-seed{seed}").record["versions"]["git"][:8] for name, seed in told]
    commits = ", ".join(dict.fromkeys(made))
    lines = [
        f"# Digits, {date.today()}",
        "",
        "scikit-learn's 1,797 handwritten digits, 8x8, 17 levels; 1,437 train, 360 held out. One thread per system.",
        f"`python benchmarks/digits.py --seeds {','.join(map(str, seeds))}`, torch {found['torch']}.",
        f"Trained at commits {commits}.",
        "CPU-seconds are the training loop's process time. Floors: the newest *-floors.md here.",
        "",
        "## Bars",
        "",
        "| system | figure | bar | aim | " + " | ".join(f"seed {seed}" for seed in seeds) + " | met |",
        "|---|---|---|---|" + "---|" * len(seeds) + "---|",
    ]
    for name in names:
        for key, sign, bar, aim in BARS[name]:
            values = [figure(told[name, s]["metrics"], key) if (name, s) in told else None for s in seeds]
            label = next((v[0] for v in values if v), key)
            met = all(v and (v[1]["value"] <= bar if sign == "<=" else v[1]["value"] >= bar) for v in values) if bar else None
            shown = " | ".join(f"{v[1]['value']:.3f}" if v else "failed" for v in values)
            row = [f"`{name}` {BUDGET[name]} CPU-s", label, f"{sign} {bar}" if bar else "-", str(aim or "-"), shown]
            row.append({True: "yes", False: "**no**", None: "-"}[met])
            lines.append(f"| {' | '.join(row)} |")
    lines += ["", "## Everything measured", ""]
    keys = list(dict.fromkeys(key for e in told.values() for key in e["metrics"]))
    lines.append("| system | seed | CPU-s | steps | sampling s | " + " | ".join(keys) + " |")
    lines.append("|---|---|---|---|---|" + "---|" * len(keys))
    for name in names:
        for seed in seeds:
            if (name, seed) not in told:
                lines.append(f"| `{name}` | {seed} | {errors.get(f'{name}-seed{seed}', 'failed')} |" + " |" * (len(keys) + 2))
                continue
            e = told[name, seed]
            cells = [f"{m['value']:.3f} ({m['low']:.3f} .. {m['high']:.3f})" if (m := e["metrics"].get(k)) else "-" for k in keys]
            head = [f"`{name}`", str(seed), f"{e['seconds']:.1f}", str(e["step"]), f"{e['sampling_seconds']:.1f}"]
            lines.append(f"| {' | '.join([*head, *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
