"""Pictures that get back what they lost, on scenes: twice and four times the size, and colours, against what needs no model.

    python benchmarks/palette.py [--seeds 0,1] [--budget 120s] [--data scenes] [--rows 500] [--keep FOLDER]

Each task is trained by `maquette train palette` on one thread. Of held-out pictures (scenes: pairs of colour and shape that no
training row has) samples are told what is left; their distance from the pictures themselves (PSNR), how well they keep what they
were told, and the Frechet distance between as many samples and the held-out pictures, in the classifier's features; beside each
the same of bicubic interpolation, or of the grey pictures. Losses included.
Writes benchmarks/DATE-palette.md and .json, and a sheet of samples in each run's folder.
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

from maquette.contracts import restoring
from maquette.loading import load
from maquette.metrics import features
from maquette.metrics.evidence import Evidence
from maquette.metrics.frechet import distance, gaussian
from maquette.metrics.intervals import mean
from maquette.metrics.restoration import decibels
from maquette.report.pictures import grid, png
from maquette.runs import Run, versions

TASKS = {
    "detail, 2 x": ["--task", "detail", "--factor", "2"],
    "detail, 4 x": ["--task", "detail", "--factor", "4"],
    "colour": ["--task", "colour"],
}
SHOWN = 10


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--budget", default="120s")
    asked.add_argument("--data", default="scenes")
    asked.add_argument("--rows", default=500, type=int)
    asked.add_argument("--tasks", default=";".join(TASKS))
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-palette-"))
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for task in given.tasks.split(";"):
        for seed in map(int, given.seeds.split(",")):
            place = folder / f"{task.replace(', ', '-').replace(' ', '')}-seed{seed}"
            trained(place, seed, given.budget, ["--data", given.data, *TASKS[task]])
            found[f"{task}, seed {seed}"] = judged(place, given.rows)
            print(json.dumps({f"{task}, seed {seed}": found[f"{task}, seed {seed}"]}), flush=True)
    path = Path(__file__).parent / f"{date.today()}-palette.md"
    commits = dict.fromkeys(Run.open(place).record["versions"]["git"][:8] for place in sorted(folder.glob("*-seed*")))
    path.write_text(table(found, given.data, list(commits)) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def trained(place: Path, seed: int, budget: str, more: list[str]) -> None:
    """A run of palette, unless it is there already."""
    if (place / "README.md").exists():
        return
    words = ["train", "palette", "--budget", budget, "--seed", str(seed), "--threads", "1", "--out", str(place)]
    subprocess.run([sys.executable, "-m", "maquette", *words, "-q", *more], check=True)


def judged(place: Path, count: int) -> dict[str, Any]:
    """Every figure of one run, and a sheet: what was left, brought up; samples; the pictures."""
    run = load(place, device="cpu")
    evidence = Evidence(run.data, run.system)
    lost = restoring(run.system.conditioner)
    assert lost is not None
    images = run.data.held.rows(torch.from_numpy(evidence.some("held", count)))["image"]
    left = lost.worsened(images)
    made = evidence.rounded(run.system.sample(len(images), about={"source": left}, seed=0)["image"])
    plain, top = evidence.rounded(lost.plain(left)), run.facts.levels - 1
    sheet = torch.cat([plain[:SHOWN], made[:SHOWN], images[:SHOWN]])
    (place / "samples" / "restored.png").write_bytes(png(grid(sheet, columns=SHOWN, zoom=3)))
    real = features.apply(evidence.network, images)
    return {
        "step": run.progress.step,
        "seconds": run.progress.seconds,
        "pictures": len(images),
        "PSNR": list(mean(decibels(made, images, top))),
        "PSNR, no model": list(mean(decibels(plain, images, top))),
        "PSNR - no model": list(mean(decibels(made, images, top) - decibels(plain, images, top))),
        "kept, PSNR": list(mean(decibels(lost.worsened(made), left, top))),
        "kept, PSNR, no model": list(mean(decibels(lost.worsened(plain), left, top))),
        "FD": [distance(*gaussian(features.apply(evidence.network, made)), *gaussian(real))],
        "FD, no model": [distance(*gaussian(features.apply(evidence.network, plain)), *gaussian(real))],
    }


def table(found: dict[str, dict[str, Any]], data: str, commits: list[str]) -> str:
    """A row per figure, a column per run."""
    lines = [
        f"# What pictures lost, given back, on {data}, {date.today()}",
        "",
        "PSNR in decibels against the held-out pictures, the mean over them with a 95 % interval; `kept`: samples made worse",
        "again, against what they were told. FD: Frechet distance to the held-out pictures in the features of a",
        "classifier of the training rows, lower is nearer. `no model`: bicubic interpolation, or the grey picture itself.",
        f"One thread. Made by `python benchmarks/palette.py`, torch {versions()['torch']}, trained at {', '.join(commits)}.",
        "",
        f"| figure | {' | '.join(found)} |",
        "|---|" + "---|" * len(found),
    ]
    for figure in dict.fromkeys(figure for told in found.values() for figure in told):
        lines.append(f"| {figure} | {' | '.join(_cell(told[figure]) for told in found.values())} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:.0f}"
    return f"{value[0]:.2f}" + (f" ({value[1]:.2f} .. {value[2]:.2f})" if len(value) > 1 else "")


if __name__ == "__main__":
    main()
