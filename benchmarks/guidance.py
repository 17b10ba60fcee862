"""Guidance in one call, then in few steps: does a student that is told the scale obey captions as its guided teacher does?

    python benchmarks/guidance.py --teacher RUN [--seeds 0,1] [--budget 150s] [--scale 2] [--captions 500] [--keep FOLDER]

RUN is a run of mmdit on scenes. From it learn, by `maquette train` on one thread, what KEEP holds not being trained again: a
student that guides itself (guidance_distilled), and two that leap in few steps (consistency): of the teacher under guidance,
and of the first student. Every line of the table draws the same held-out captions from the same noise; adherence is
maquette/metrics/adherence.py's. Calls are rows that go through the network for a picture. Losses included.
Writes benchmarks/DATE-guidance.md and .json, and a sheet of every line in KEEP.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from maquette.dials import turned
from maquette.loading import load
from maquette.metrics import adherence
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion
from maquette.report.pictures import grid, png
from maquette.runs import versions

# a line: which run, whether it is drawn under guidance, steps
LINES = {
    "teacher, guided, 20 steps": ("teacher", True, 20),
    "teacher, unguided, 20 steps": ("teacher", False, 20),
    "told, 20 steps": ("guidance_distilled", True, 20),
    "told no guidance, 20 steps": ("guidance_distilled", False, 20),
    "consistency of the guided teacher, 4 steps": ("consistency", False, 4),
    "consistency of the told one, 4 steps": ("few", True, 4),
    "teacher, guided, 4 steps": ("teacher", True, 4),
    "told, 4 steps": ("guidance_distilled", True, 4),
    "teacher, guided, 2 steps": ("teacher", True, 2),
    "told, 2 steps": ("guidance_distilled", True, 2),
    "consistency of the guided teacher, 2 steps": ("consistency", False, 2),
    "consistency of the told one, 2 steps": ("few", True, 2),
}
FIRST = "teacher, guided, 20 steps"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--teacher", required=True)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--budget", default="150s", help="training CPU-seconds of each student")
    asked.add_argument("--scale", type=float, default=2.0, help="of guidance")
    asked.add_argument("--captions", type=int, default=500)
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-guidance-"))
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in map(int, given.seeds.split(",")):
        for name, place in students(folder, given.teacher, seed, given.budget, given.scale).items():
            for title, (run, guided, steps) in LINES.items():
                if run == name and not (name == "teacher" and title in found):  # of the teacher there is one
                    sheet = folder / f"{title.replace(',', '').replace(' ', '-')}-seed{seed}.png"
                    told = drawn(place, given.scale if guided else 1.0, steps, given.captions, sheet)
                    found.setdefault(title, []).append({"run": place.name, "seed": seed, **told})
    commits = dict.fromkeys(told["git"] or "(not recorded)" for told in flat(found))
    path = Path(__file__).parent / f"{date.today()}-guidance.md"
    path.write_text(table(found, given, list(commits)) + "\n")
    plain = [{k: v for k, v in told.items() if k != "right"} | {"line": told["line"]} for told in flat(found)]
    path.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n")
    print(path.read_text())


def students(folder: Path, teacher: str, seed: int, budget: str, scale: float) -> dict[str, Path]:
    """Every run of a seed, the first student before its own."""
    own, leap, few = (folder / f"{name}-seed{seed}" for name in ("guidance_distilled", "consistency", "few"))
    train(own, "guidance_distilled", seed, budget, "--teacher", teacher)
    train(leap, "consistency", seed, budget, "--teacher", teacher, "--guidance", str(scale))
    train(few, "consistency", seed, budget, "--teacher", str(own))
    return {"teacher": Path(teacher), "guidance_distilled": own, "consistency": leap, "few": few}


def train(place: Path, recipe: str, seed: int, budget: str, *more: str) -> None:
    """A run of a recipe, unless it is there already."""
    if (place / "README.md").exists():
        return
    words = ["train", recipe, "--budget", budget, "--seed", str(seed), "--threads", "1", "--out", str(place), "-q"]
    subprocess.run([sys.executable, "-m", "maquette", *words, *more], check=True)


def drawn(place: Path, scale: float, steps: int, most: int, sheet: Path) -> dict[str, Any]:
    """What samples of a run show of held-out captions, and what a picture costs."""
    run = load(place)
    evidence = Evidence(run.data, run.system)
    net = adherence.judge(evidence)
    chosen = torch.from_numpy(evidence.some("held", most))
    asked = {name: adherence.rows(column, chosen) for name, column in evidence.held.items()}
    sampler = turned(run.system.sampler, {"steps": steps, "guidance": scale})
    rows: list[int] = []
    hook = run.system.steady("main").register_forward_hook(lambda net, given, out: rows.append(len(out)))
    began = time.process_time()
    images = run.system.sample(len(chosen), about={"text": asked["text"]}, seed=0, sampler=sampler)["image"]
    spent = time.process_time() - began
    hook.remove()
    sheet.write_bytes(png(grid(images[:20], 10, zoom=2)))
    right = adherence.correct(net, evidence.rounded(images), asked)
    whole = right.all(1)
    told: dict[str, Any] = {
        "calls": sum(rows) / len(chosen),
        "seconds": spent / len(chosen),
        "trained": round(run.progress.seconds),
        "updates": run.progress.step,
        "git": run.trained.record["versions"]["git"][:8],
        "adherence": list(proportion(int(whole.sum()), len(whole))),
        **{name: float(right[:, i].double().mean()) for i, name in enumerate(net.names)},
    }
    return {**told, "right": whole}


def flat(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{"line": title, **told} for title, each in found.items() for told in each]


def table(found: dict[str, list[dict[str, Any]]], given: argparse.Namespace, commits: list[str]) -> str:
    """A row for each line of each seed, with its difference from the guided teacher."""
    best = found[FIRST][0]["right"].double()
    captions = len(best)
    lines = [
        f"# Guidance in one call and in few steps, {date.today()}",
        "",
        f"Share of {captions} held-out captions of scenes (colour and shape never seen together) of which a sample shows all",
        "factors, 95 % interval; `- first`: less that of the guided teacher on the same captions and noise. "
        f"Scale {given.scale:g}.",
        f"Students learnt for {given.budget} CPU each. Calls: rows through the network for a picture; seconds of one thread, the",
        "decoder's included.",
        f"`python benchmarks/guidance.py --teacher RUN --seeds {given.seeds} --budget {given.budget} --scale {given.scale:g} "
        f"--captions {given.captions}`, torch {versions()['torch']}, trained at {', '.join(commits)}.",
        "",
        "| drawn | seed | CPU-s | updates | calls | seconds | adherence | - first | shape | colour | texture |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for told in flat(found):
        value, low, high = told["adherence"]
        less = mean((told["right"].double() - best).numpy())
        off = "-" if told["line"] == FIRST else f"{less[0]:+.3f} ({less[1]:+.3f} .. {less[2]:+.3f})"
        cells = [told["line"], told["seed"], told["trained"], told["updates"], f"{told['calls']:.0f}", f"{told['seconds']:.4f}"]
        cells += [f"{value:.3f} ({low:.3f} .. {high:.3f})", off]
        cells += [f"{told[name]:.3f}" for name in ("shape", "colour", "texture")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
