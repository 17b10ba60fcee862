"""The codecs at equal bits, and the prior of a second stage: each trained for its budget and scored, losses included.

    python benchmarks/codecs.py [--data glyphs,scenes] [--seeds 0,1] [--recipes vq_vae,vqgan] [--patch 8] [--keep FOLDER]

Each system is trained by `maquette train` in a process of its own on one thread, then scored by `maquette eval`; what FOLDER
holds already is not done again. A prior is trained on the run of its codec. Writes benchmarks/DATE-codecs.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from maquette.compare import Entry, pending, run_all, stages
from maquette.runs import Run, versions

# name -> (recipe, training seconds, arguments); "codec" names another one of these
PLAN: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vq_vae": ("vq_vae", 60, {}),
    "rvq": ("rvq", 60, {"books": 2, "symbols": 16}),
    "fsq": ("fsq", 60, {}),
    "vqgan": ("vqgan", 60, {}),
    "kl_codec": ("kl_codec", 60, {}),
    "vq_prior on vq_vae": ("vq_prior", 60, {"codec": "vq_vae"}),
    "vq_prior on vqgan": ("vq_prior", 60, {"codec": "vqgan"}),
}
FIGURES = ["bits/image", "PSNR", "rFD-convnet64", "rFD-randconv", "codebook use", "codebook perplexity", "FD-convnet64"]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", default="glyphs,scenes")
    asked.add_argument("--patch", type=int, default=0, help="pixels to a side of a symbol (0 = the recipes' own)")
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--recipes", default=",".join(PLAN))
    asked.add_argument("--keep", default="", help="keep the runs in this folder")
    asked.add_argument("--budget", type=int, default=0, help="training seconds of each system in place of the plan's")
    asked.add_argument("--jobs", type=int, default=2, help="systems trained side by side")
    asked.add_argument("--only-table", action="store_true", help="train nothing: tell what FOLDER holds")
    given = asked.parse_args()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    names, seeds = given.recipes.split(","), [int(seed) for seed in given.seeds.split(",")]
    cells = [(data, name, seed) for data in given.data.split(",") for name in names for seed in seeds]
    errors: dict[str, str] = {}
    for second in (False, True):  # codecs first, then what is built on them
        entries = [entry(folder, given.budget, given.patch, *cell) for cell in cells if ("codec" in PLAN[cell[1]][2]) == second]
        if not given.only_table:
            run_all(entries, jobs=given.jobs, quiet=False)
        errors |= {e.name: e.error for e in entries}
    path = Path(__file__).parent / f"{date.today()}-codecs.md"
    path.write_text(table(cells, folder, errors) + "\n")
    values = {place(*cell): plain for cell in cells if (plain := flat(folder / place(*cell)))}
    path.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")
    print(path.read_text())
    if not given.keep:
        shutil.rmtree(folder)


def place(data: str, name: str, seed: int) -> str:
    """A run's folder."""
    return f"{data}-{name.replace(' ', '-')}-seed{seed}"


def entry(folder: Path, budget: int, patch: int, data: str, name: str, seed: int) -> Entry:
    """What is left to do of one run."""
    recipe, seconds, arguments = PLAN[name]
    if "codec" in arguments:
        arguments = {**arguments, "codec": str(folder / place(data, arguments["codec"], seed))}
    elif patch:
        arguments = {**arguments, "patch": patch}
    own = folder / place(data, name, seed)
    train, judge = stages(recipe, data, own, f"{budget or seconds}s", 0, seed, arguments)
    return pending(own, [train, judge])


def flat(folder: Path) -> dict[str, float]:
    """A run's figures as plain numbers, with what they cost; {} where it failed."""
    path = folder / "eval.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    found = {k: e["value"] for k, e in told["metrics"].items()} if told else {}
    return {**found, "seconds": told["seconds"], "step": told["step"]} if told else {}


def table(cells: list[tuple[str, str, int]], folder: Path, errors: dict[str, str]) -> str:
    """Every figure of every run, by data set."""
    found = versions()
    given = sys.argv[1:]
    if "--keep" in given:  # a folder of this machine
        del given[given.index("--keep") : given.index("--keep") + 2]
    known = [cell for cell in cells if (folder / place(*cell) / "eval.json").exists()]
    commits = ", ".join(dict.fromkeys(Run.open(folder / place(*cell)).record["versions"]["git"][:8] for cell in known))
    lines = [
        f"# Codecs, {date.today()}",
        "",
        "Held-out images encoded and decoded. One thread per system. bits/image: what a code costs with all symbols equally",
        "likely; of a Gaussian latent its divergence from a standard normal; under a prior, given the label, where there is one.",
        f"`python benchmarks/codecs.py {' '.join(given)}`, torch {found['torch']}. Trained at commits {commits}.",
    ]
    for data in dict.fromkeys(cell[0] for cell in cells):
        lines += ["", f"## {data}", ""]
        lines.append("| system | seed | CPU-s | steps | " + " | ".join(FIGURES) + " |")
        lines.append("|---|---|---|---|" + "---|" * len(FIGURES))
        for cell in (cell for cell in cells if cell[0] == data):
            if cell not in known:
                lines.append(f"| {cell[1]} | {cell[2]} | {errors.get(place(*cell)) or 'not run'} |" + " |" * (len(FIGURES) + 1))
                continue
            told = json.loads((folder / place(*cell) / "eval.json").read_text())
            shown = [f"{cell[1]}", str(cell[2]), f"{told['seconds']:.0f}", str(told["step"])]
            for name in FIGURES:
                key = name if name in told["metrics"] else next((k for k in told["metrics"] if k.startswith(name)), "")
                m = told["metrics"].get(key)
                shown.append(f"{m['value']:.4g} ({m['low']:.4g} .. {m['high']:.4g})" if m else "-")
            lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
