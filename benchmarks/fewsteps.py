"""Few steps: a flow on font digits, and students that learn from it to need fewer. Losses included.

    python benchmarks/fewsteps.py [--seeds 0] [--teacher 300] [--student 150] [--samples 500] [--recipes reflow] [--keep FOLDER]
        [--name shortcut]

Each system is trained by `maquette train` in a process of its own on one thread; what FOLDER holds already is not trained
again. Every line of the table draws the same samples, by seed and label, with another sampler or number of steps, and is
judged by the same classifier. Writes benchmarks/DATE-fewsteps-DATA.md, or -DATA-NAME.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from maquette import api
from maquette.evaluate import choose, judge
from maquette.metrics.evidence import Evidence
from maquette.processes.gaussian import Gaussian
from maquette.runs import Run, versions
from maquette.samplers.solvers import DPM, Euler, Heun, Leaps, Solver, Strider

BARS = {("consistency", "Leaps", 1): 1.5, ("consistency", "Leaps", 4): 1.15}  # of the teacher's FD at 20 steps
FLOORS = {("flow", "HeunGuided", 12): {"GAN-train": 0.93, "GAN-test": 0.90}}  # on font digits
# judged by GAN-train and label too, which is dear
WHOLE = {("flow", 12), ("consistency", 1), ("consistency", 4), ("reflow", 4), ("shortcut", 4)}
Line = tuple[str, Callable[..., Solver], int]


def HeunGuided(process: Gaussian, shape: tuple[int, ...], steps: int) -> Heun:
    """Heun's method with a little guidance: two calls where there was one."""
    return Heun(process, shape, steps=steps, guidance=1.25)


TEACHER: list[Line] = [("flow", Heun, 20), ("flow", Heun, 12), ("flow", HeunGuided, 12), ("flow", DPM, 4)]
EULER = {"shortcut": (20, 4, 2, 1)}  # numbers of Euler's steps that the teacher is drawn by beside a student
STUDENTS: dict[str, list[Line]] = {
    "consistency": [("consistency", Leaps, steps) for steps in (1, 2, 4)],
    "reflow": [("reflow", Euler, steps) for steps in (1, 2, 4)],
    "shortcut": [("shortcut", Strider, steps) for steps in (1, 2, 4, 8)],
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0")
    asked.add_argument("--teacher", type=int, default=300, help="the teacher's training CPU-seconds")
    asked.add_argument("--student", type=int, default=150, help="a student's")
    asked.add_argument("--guidance", default="", help="that the teacher of consistency is under; empty = none")
    asked.add_argument("--samples", type=int, default=500)
    asked.add_argument("--recipes", default=",".join(STUDENTS))
    asked.add_argument("--data", default="font_digits")
    asked.add_argument("--name", default="", help="a word more in the names of the table's files")
    asked.add_argument("--keep", default="", help="keep the runs in this folder")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-fewsteps-"))
    found: list[dict[str, Any]] = []
    for seed in (int(seed) for seed in given.seeds.split(",")):
        teacher = folder / f"flow-seed{seed}"
        train(teacher, "flow", given.teacher, seed, f"--data={given.data}")
        plain = max((EULER.get(name, (4, 1)) for name in given.recipes.split(",")), key=len)
        found += lines(teacher, TEACHER + [("flow", Euler, steps) for steps in plain], seed, given.samples)
        for name in given.recipes.split(","):
            place = folder / f"{name}-seed{seed}"
            guided = [f"--guidance={given.guidance}"] if given.guidance and name == "consistency" else []
            train(place, name, given.student, seed, f"--teacher={teacher}", *guided)
            found += lines(place, STUDENTS[name], seed, given.samples)
            write(given, found)
    write(given, found)


def train(place: Path, recipe: str, budget: int, seed: int, *options: str) -> None:
    """Train by the command line, unless it was done already."""
    if place.exists() and Run.open(place).rows()[-1:] and Run.open(place).checkpoints():
        return
    base = [
        sys.executable,
        "-m",
        "maquette",
        "train",
        recipe,
        "--budget",
        f"{budget}s",
        "--seed",
        str(seed),
        "--threads",
        "1",
        "-q",
    ]
    subprocess.run([*base, "--out", str(place), *options], check=True)


def lines(place: Path, wanted: list[Line], seed: int, n: int) -> list[dict[str, Any]]:
    """The figures of one run under several samplers; those it was judged by before are read from the run's folder."""
    kept = place / f"fewsteps-{n}.json"
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    run = api.load(place)
    for name, solver, steps in wanted:
        key = f"{solver.__name__} {steps}"
        if key not in known:
            known[key] = line(run, name, solver, steps, seed, n)
            kept.write_text(json.dumps(known, indent=1))
            print(known[key], file=sys.stderr, flush=True)
    return [known[f"{solver.__name__} {steps}"] for _, solver, steps in wanted]


def line(run: api.Loaded, name: str, solver: Callable[..., Solver], steps: int, seed: int, n: int) -> dict[str, Any]:
    """The figures of one run under one sampler."""
    own: Any = run.system.sampler
    sampler = replace(own, steps=steps) if type(own) is solver else solver(own.process, run.facts.shape, steps=steps)
    began = time.process_time()
    labels = torch.arange(n) % max(1, len(run.facts.classes))
    batch = run.system.sample(n, about={"label": labels}, seed=seed, sampler=sampler)
    spent = time.process_time() - began
    metrics = choose(["frechet", "utility"] if (name, steps) in WHOLE else ["frechet"])
    figures = judge(Evidence(run.data, samples=batch, seed=seed), metrics)["metrics"]
    calls = 2 * (2 * steps - 1) if solver is HeunGuided else 2 * steps - 1 if solver is Heun else steps
    return {
        "system": name,
        "seed": seed,
        "sampler": solver.__name__,
        "steps": steps,
        "calls": calls,
        **{("FD" if key.startswith("FD") else key): estimate.value for key, estimate in figures.items()},
        "images/CPU-s": n / spent,
        "trained": round(run.progress.seconds, 1),
        "updates": run.progress.step,
        "git": run.run.record["versions"]["git"][:8],
    }


def write(given: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    """The table, each FD beside the teacher's at 20 steps."""
    words = [str(date.today()), "fewsteps", Path(given.data).name, *([given.name] if given.name else [])]
    path = Path(__file__).parent / f"{'-'.join(words)}.md"
    lines = [
        f"# Few steps, {date.today()}",
        "",
        f"{given.data}; {given.samples} samples a line, labels in turn; one thread. torch {versions()['torch']}.",
        f"`python benchmarks/fewsteps.py --data {given.data} --seeds {given.seeds} "
        f"--teacher {given.teacher} --student {given.student} --samples {given.samples} --recipes {given.recipes}"
        f"{f' --guidance {given.guidance}' if given.guidance else ''}{f' --name {given.name}' if given.name else ''}`",
        f"Trained at commits {', '.join(dict.fromkeys(line['git'] or '(not recorded)' for line in found))}.",
        "FD is against all held-out rows, in the features of the data's own classifier; few samples put it above its floor.",
        "",
        "| system | seed | CPU-s | updates | sampler | steps | calls | FD | / teacher's at 20 | bar | GAN-train | label obeyed "
        "| images/CPU-s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in found:
        best = next(x["FD"] for x in found if x["seed"] == line["seed"] and (x["sampler"], x["steps"]) == ("Heun", 20))
        bar = BARS.get((line["system"], line["sampler"], line["steps"]))
        share = line["FD"] / best
        met = "-" if bar is None else f"<= {bar}: {'yes' if share <= bar else '**no**'}"
        floors = FLOORS.get((line["system"], line["sampler"], line["steps"]), {}) if given.data == "font_digits" else {}
        if floors:
            reached = all(line[key] >= floor for key, floor in floors.items())
            met = f"{', '.join(f'{key} >= {floor}' for key, floor in floors.items())}: {'yes' if reached else '**no**'}"
        cells = [f"`{line['system']}`", *(line[key] for key in ("seed", "trained", "updates", "sampler", "steps", "calls"))]
        judged = [f"{line[key]:.3f}" if key in line else "-" for key in ("GAN-train", "GAN-test")]
        cells += [f"{line['FD']:.3f}", f"{share:.2f}", met, *judged, f"{line['images/CPU-s']:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
