"""Text to image on scenes: do samples show what held-out captions ask for? Pairs of colour and shape that no training row has.

    python benchmarks/pictures.py [--seeds 0,1] [--recipes latent_diffusion,mmdit,dalle] [--codec 480s] [--budget 720s]
        [--judge CLIPRUN] [--best 16] [--some 250] [--keep FOLDER] [--table]

Each recipe of captioned pictures is trained by `maquette train` on one thread, the codec it builds on first; ten minutes of two
cores are 1,200 CPU-seconds. Adherence (maquette/metrics/adherence.py) with guidance and without, of the same captions and the
same noise; with a judge, a run of clip, also of the best of some samples for each of some of the captions: the judge of
adherence is another network. Differences with a 95 % interval over captions. Losses included.
Writes benchmarks/DATE-pictures.md and .json, and a sheet of samples in each run's folder. Runs that the newest .json has, and
this call does not make, stay; --table makes none, and writes the table again.
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
from tables import side_by_side

from maquette.best import best_pictures
from maquette.dials import turned
from maquette.loading import load
from maquette.metrics import adherence
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion
from maquette.opened import Loaded
from maquette.report.pictures import grid, png
from maquette.runs import versions

LATENTS = ("kl_codec", ["--patch", "4", "--latent", "4", "--delay", "300"])
STAGED = {  # what is trained first, and with which arguments
    "latent_diffusion": LATENTS,
    "mmdit": LATENTS,
    "dalle": ("vqgan", ["--patch", "4", "--levels", "8,8,8", "--delay", "300"]),
}
SCALES = {"plain": 1.0, "guided": 2.0, "guided by 3": 3.0}  # of guidance
HERE = Path(__file__).parent


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--recipes", default="latent_diffusion,mmdit,dalle")
    asked.add_argument("--codec", default="480s")
    asked.add_argument("--budget", default="720s")
    asked.add_argument("--judge", default="", help="a run of clip, by which the best of some samples is kept")
    asked.add_argument("--best", type=int, default=16, help="samples of which the judge keeps one")
    asked.add_argument("--some", type=int, default=250, help="captions that this is done for")
    asked.add_argument("--keep", default="")
    asked.add_argument("--table", action="store_true", help="train and judge nothing")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-pictures-"))
    folder.mkdir(parents=True, exist_ok=True)
    judge = load(given.judge) if given.judge else None
    found = before()
    for name in () if given.table else given.recipes.split(","):
        for seed in map(int, given.seeds.split(",")):
            place, more = folder / f"{name}-seed{seed}", []
            if name in STAGED:
                recipe, arguments = STAGED[name]
                codec = folder / f"{recipe}-seed{seed}"
                trained(codec, recipe, seed, given.codec, arguments)
                more = ["--codec", str(codec)]
            trained(place, name, seed, given.budget, more)
            found[f"{name}, seed {seed}"] = judged(place, codec if more else None, judge, given.best, given.some)
    path = HERE / f"{date.today()}-pictures.md"
    path.write_text(table(found) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def before() -> dict[str, dict[str, Any]]:
    """What the newest file has."""
    files = sorted(HERE.glob("*-pictures.json"))
    return json.loads(files[-1].read_text()) if files else {}


def trained(place: Path, recipe: str, seed: int, budget: str, more: list[str]) -> None:
    """A run of a recipe on scenes, unless it is there already."""
    if (place / "README.md").exists():
        return
    words = ["train", recipe, "--data", "scenes", "--budget", budget, "--seed", str(seed), "--threads", "1", "--out", str(place)]
    subprocess.run([sys.executable, "-m", "maquette", *words, "-q", *more], check=True)


def judged(place: Path, codec: Path | None, judge: Loaded | None, of: int, some: int) -> dict[str, Any]:
    """Every figure of one run, and a sheet of its samples.

    Args:
        judge: a run that compares; with it, the best of `of` samples for each of the first `some` captions are judged too.
    """
    run = load(place)
    evidence = Evidence(run.data, run.system)
    net = adherence.judge(evidence)
    chosen = torch.from_numpy(evidence.some("held", adherence.MOST))
    asked = {name: adherence.rows(column, chosen) for name, column in evidence.held.items()}
    told: dict[str, Any] = {"commit": run.trained.record["versions"]["git"][:8]}
    told |= {"step": run.progress.step, "seconds": run.progress.seconds, "captions": len(chosen)}
    if codec is not None:
        told["codec seconds"] = load(codec).progress.seconds
        told["rebuilt"] = share(adherence.correct(net, evidence.rebuilt[chosen], asked).all(1))
    told["real"] = share(adherence.correct(net, asked["image"], asked).all(1))
    right = {}
    for name, guidance in SCALES.items():
        sampler = turned(run.system.sampler, {"guidance": str(guidance)})
        images = run.system.sample(len(chosen), about={"text": asked["text"]}, seed=0, sampler=sampler)["image"]
        _sheet(place, {"guided": "captions"}.get(name, name.replace(" ", "-")), images)
        right[name] = adherence.correct(net, evidence.rounded(images), asked)
        told[name] = share(right[name].all(1))
        told |= {f"{name}, {factor}": share(right[name][:, i]) for i, factor in enumerate(net.names)}
        if judge is None or name == "guided by 3":
            continue
        few = {key: column[:some] for key, column in asked.items()}
        kept = best_pictures(run, judge, min(some, len(chosen)), of, about={"text": few["text"]}, sampler=sampler)["image"]
        best = f"{name}, best of {of} by clip"
        _sheet(place, best.replace(", ", "-").replace(" ", "-"), kept)
        right[best] = adherence.correct(net, evidence.rounded(kept), few)
        told[best] = share(right[best].all(1))
        told |= {f"{best}, {factor}": share(right[best][:, i]) for i, factor in enumerate(net.names)}
        told[f"best of {of} by clip - {name}, of {some} captions"] = gain(right[best], right[name][:some])
    for name in list(SCALES)[1:]:
        told[f"{name} - plain"] = gain(right[name], right["plain"])
    return told


def gain(right: torch.Tensor, left: torch.Tensor) -> list[float]:
    """By how much more often one shows all of a caption than the other does, over the same captions: value, low, high."""
    return list(mean((right.all(1).double() - left.all(1).double()).numpy()))


def _sheet(place: Path, name: str, images: torch.Tensor) -> None:
    (place / "samples" / f"{name}.png").write_bytes(png(grid(images[:40], zoom=2)))


def share(right: torch.Tensor) -> list[float]:
    """Value, low, high."""
    return list(proportion(int(right.sum()), len(right)))


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row per figure, a column per run."""
    lines = [
        f"# Text to image on scenes, {date.today()}",
        "",
        "Shares of held-out captions (colour and shape never seen together) of which a sample shows all, or the factor named;",
        "95 % intervals. `guided`: guidance 2. `rebuilt`: the codec's copies of the real rows; `real`: the rows themselves.",
        "`best of N by clip`: of N samples for a caption the one that a run of clip finds closest to it; which is no judge of",
        f"adherence. One thread. Made by `python benchmarks/pictures.py`, torch {versions()['torch']}.",
        "",
        *side_by_side(found),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
