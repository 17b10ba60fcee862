"""Text to image on scenes: do samples show what held-out captions ask for? Pairs of colour and shape that no training row has.

    python benchmarks/pictures.py [--seeds 0,1] [--systems latent_diffusion,mmdit] [--codec 480s] [--budget 720s] [--keep FOLDER]

Each system is trained by `maquette train` on one thread, latents' codec first; ten minutes of two cores are 1,200 CPU-seconds.
Adherence (maquette/metrics/adherence.py) with guidance and without, of the same captions and the same noise; the difference
with a 95 % interval over captions. Losses included.
Writes benchmarks/DATE-pictures.md and .json, and a sheet of samples in each run's folder.
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

from maquette.metrics import adherence
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion
from maquette.opened import load, turned
from maquette.report.pictures import grid, png
from maquette.runs import Run, versions

STAGED = ("latent_diffusion", "mmdit")  # systems of latents
GUIDED = 2.0


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--systems", default="latent_diffusion,mmdit")
    asked.add_argument("--codec", default="480s")
    asked.add_argument("--budget", default="720s")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-pictures-"))
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for name in given.systems.split(","):
        for seed in map(int, given.seeds.split(",")):
            place, more = folder / f"{name}-seed{seed}", []
            if name in STAGED:
                codec = folder / f"kl_codec-seed{seed}"
                trained(codec, "kl_codec", seed, given.codec, ["--patch", "4", "--latent", "4", "--delay", "300"])
                more = ["--codec", str(codec)]
            trained(place, name, seed, given.budget, more)
            found[f"{name}, seed {seed}"] = judged(place, codec if more else None)
    path = Path(__file__).parent / f"{date.today()}-pictures.md"
    commits = dict.fromkeys(Run.open(place).record["versions"]["git"][:8] for place in sorted(folder.glob("*-seed*")))
    path.write_text(table(found, list(commits)) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def trained(place: Path, recipe: str, seed: int, budget: str, more: list[str]) -> None:
    """A run of a recipe on scenes, unless it is there already."""
    if (place / "README.md").exists():
        return
    words = ["train", recipe, "--data", "scenes", "--budget", budget, "--seed", str(seed), "--threads", "1", "--out", str(place)]
    subprocess.run([sys.executable, "-m", "maquette", *words, "-q", *more], check=True)


def judged(place: Path, codec: Path | None) -> dict[str, Any]:
    """Every figure of one run, and a sheet of its samples."""
    run = load(place)
    evidence = Evidence(run.data, run.system)
    net = adherence.judge(evidence)
    chosen = torch.from_numpy(evidence.some("held", adherence.MOST))
    asked = {name: adherence.rows(column, chosen) for name, column in evidence.held.items()}
    told: dict[str, Any] = {"step": run.progress.step, "seconds": run.progress.seconds, "captions": len(chosen)}
    if codec is not None:
        told["codec seconds"] = load(codec).progress.seconds
        told["rebuilt"] = share(adherence.correct(net, evidence.rebuilt[chosen], asked).all(1))
    told["real"] = share(adherence.correct(net, asked["image"], asked).all(1))
    right = {}
    for guidance in (1.0, GUIDED):
        sampler = turned(run.system.sampler, {"guidance": str(guidance)})
        images = run.system.sample(len(chosen), about={"text": asked["text"]}, seed=0, sampler=sampler)["image"]
        if guidance == GUIDED:
            (place / "samples" / "captions.png").write_bytes(png(grid(images[:40], zoom=2)))
        right[guidance] = adherence.correct(net, evidence.rounded(images), asked)
        name = "guided" if guidance != 1 else "plain"
        told[name] = share(right[guidance].all(1))
        told |= {f"{name}, {factor}": share(right[guidance][:, i]) for i, factor in enumerate(net.names)}
    gain = (right[GUIDED].all(1).double() - right[1.0].all(1).double()).numpy()
    told["guided - plain"] = list(mean(gain))
    return told


def share(right: torch.Tensor) -> list[float]:
    """Value, low, high."""
    return list(proportion(int(right.sum()), len(right)))


def table(found: dict[str, dict[str, Any]], commits: list[str]) -> str:
    """A row per figure, a column per run."""
    figures = list(dict.fromkeys(figure for told in found.values() for figure in told))
    lines = [
        f"# Text to image on scenes, {date.today()}",
        "",
        "Shares of held-out captions (colour and shape never seen together) of which a sample shows all, or the factor named;",
        f"95 % intervals. Guidance {GUIDED:g}. `rebuilt`: the codec's copies of the real rows; `real`: the rows themselves.",
        f"One thread. Made by `python benchmarks/pictures.py`, torch {versions()['torch']}, trained at {', '.join(commits)}.",
        "",
        f"| figure | {' | '.join(found)} |",
        "|---|" + "---|" * len(found),
    ]
    for figure in figures:
        cells = [_cell(told.get(figure)) for told in found.values()]
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value[0]:.3f} ({value[1]:.3f} .. {value[2]:.3f})" if isinstance(value, list) else f"{value:.0f}"


if __name__ == "__main__":
    main()
