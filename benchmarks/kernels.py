"""What Muon is worth where kernels of convolutions learn: each recipe as it is, and with AdamW alone, for the same time.

    python benchmarks/kernels.py [--seeds 0,1] [--recipes flow,ddpm,vq_vae] [--jobs 1] [--keep FOLDER] [--only-table]

AdamW's rates and decay are those the recipes had before Muon was given their kernels. Each is trained by `maquette train` in a
process of its own on one thread, then scored by `maquette eval`; what FOLDER holds already is not done again. Seconds are CPU
seconds of training. Losses included. Writes benchmarks/DATE-kernels.md and .json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from tables import side_by_side

from maquette.compare import pending, run_all, stages
from maquette.runs import Run, versions

# recipe -> data, training seconds, what it was before, more of its arguments, figures
PLAN: dict[str, tuple[str, int, dict[str, Any], dict[str, Any], list[str]]] = {
    "flow": ("font_digits", 120, {"muon": 0.0}, {}, ["FD-convnet64", "GAN-train", "GAN-test"]),
    "edm": ("digits", 60, {"muon": 0.0}, {}, ["FD-mlp128-64", "GAN-train", "GAN-test"]),
    "ddpm": ("digits", 60, {"muon": 0.0}, {}, ["FD-mlp128-64", "GAN-train", "GAN-test"]),
    "ddim": ("digits", 60, {"muon": 0.0}, {}, ["FD-mlp128-64", "GAN-train", "GAN-test"]),
    "kl_codec": ("scenes", 90, {"muon": 0.0, "weight_decay": 0.3}, {}, ["PSNR", "rFD-convnet64"]),
    "vq_vae": ("scenes", 90, {"muon": 0.0, "weight_decay": 0.3}, {"patch": 8}, ["PSNR", "rFD-convnet64", "codebook perplexity"]),
    "vqgan": ("glyphs", 90, {"muon": 0.0, "weight_decay": 0.3}, {}, ["PSNR", "rFD-convnet64", "codebook perplexity"]),
}
Cell = tuple[str, str, int]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--recipes", default=",".join(PLAN))
    asked.add_argument("--keep", default="", help="keep the runs in this folder")
    asked.add_argument("--jobs", type=int, default=1, help="systems trained side by side")
    asked.add_argument("--only-table", action="store_true", help="train nothing: tell what FOLDER holds")
    given = asked.parse_args()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-kernels-"))
    folder.mkdir(parents=True, exist_ok=True)
    names, seeds = given.recipes.split(","), [int(seed) for seed in given.seeds.split(",")]
    cells = [(name, kind, seed) for name in names for seed in seeds for kind in ("Muon", "AdamW")]
    entries = []
    for name, kind, seed in cells:
        data, budget, before, more, _ = PLAN[name]
        place = folder / run_name((name, kind, seed))
        train, judge = stages(name, data, place, f"{budget}s", 0, seed, more | (before if kind == "AdamW" else {}), n=1000)
        entries.append(pending(place, [train, judge]))
    if not given.only_table:
        run_all(entries, jobs=given.jobs, quiet=False)
    lines = [
        f"# Muon on kernels, {date.today()}",
        "",
        "Each recipe as it is and with AdamW alone, for the same time; 95 % intervals. One thread, torch "
        f"{versions()['torch']}. Made by `python benchmarks/kernels.py`.",
    ]
    figures: dict[str, dict[str, Any]] = {}
    for name in names:
        told = {f"{kind}, seed {seed}": one(folder, (name, kind, seed)) for each, kind, seed in cells if each == name}
        lines += ["", f"## `{name}` on {PLAN[name][0]}", "", *side_by_side(told)]
        figures[name] = told
    errors = [f"- {e.name}: {e.error}" for e in entries if e.error]
    path = Path(__file__).parent / f"{date.today()}-kernels.md"
    path.write_text("\n".join([*lines, *(["", *errors] if errors else [])]) + "\n")
    path.with_suffix(".json").write_text(json.dumps({"recipes": figures}, indent=1) + "\n")
    print(path.read_text())


def run_name(cell: Cell) -> str:
    """A run's folder."""
    name, kind, seed = cell
    return f"{name}-{kind}-seed{seed}"


def one(folder: Path, cell: Cell) -> dict[str, Any]:
    """A run's figures with their intervals, or nothing where it failed."""
    place = folder / run_name(cell)
    if not (place / "eval.json").exists():
        return {}
    told = json.loads((place / "eval.json").read_text())
    found = {key: told["metrics"][key] for key in PLAN[cell[0]][4]}
    known = {"commit": Run.open(place).record["versions"]["git"][:8], "seconds": told["seconds"], "steps": told["step"]}
    return known | {key: [figure["value"], figure["low"], figure["high"]] for key, figure in found.items()}


if __name__ == "__main__":
    main()
