"""Five pictures of one thing: does a sample that is told the new word show it? Beside what the base draws of its kind.

    python benchmarks/dreambooth.py --base RUN [--seeds 0,1] [--budget 80s] [--ways dreambooth,no-prior,words] [--judge RUN]
                                    [--kind "large circle"] [--train "mmdit --codec RUN --budget 720s"] [--keep FOLDER]

The thing is a disc of two halves (maquette/data/subject.py), which no picture of `scenes` resembles. The base is a run of
latent_diffusion or mmdit on scenes; where its folder holds none yet, `--train` says the words of `maquette train` that make it.
Identity (maquette/metrics/identity.py), and by a run of clip, if one is named, the cosine of its features; differences are
paired by noise, with 95 % intervals over samples. `ground told`: share of samples on the ground that the prompt says.
Writes benchmarks/DATE-dreambooth-RECIPE.md and .json, and a sheet of samples in each run's folder.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tables import side_by_side
from torch.nn import functional as F

from maquette.contracts import Comparing
from maquette.data.scenes import GROUNDS
from maquette.data.subject import discs
from maquette.loading import load
from maquette.metrics import features, identity
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion
from maquette.opened import Loaded
from maquette.report.pictures import grid, png
from maquette.runs import Run, versions

WAYS = {  # how each is trained, and the caption that it is told the thing by
    "dreambooth": (["dreambooth"], "a sks {kind}"),
    "no-prior": (["dreambooth", "--prior", "0"], "a sks {kind}"),
    "all-weights": (["dreambooth", "--rank", "0"], "a sks {kind}"),
    "words": (["textual_inversion"], "a <it>"),
}
N = 100  # samples under each caption


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--base", required=True)
    asked.add_argument("--train", default="mmdit --budget 1200s")
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--budget", default="80s")
    asked.add_argument("--ways", default="dreambooth,no-prior,words")
    asked.add_argument("--kind", default="large circle")
    asked.add_argument("--judge", default="")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-dreambooth-"))
    base = Path(given.base)
    if not (base / "run.json").exists():
        maquette("train", *shlex.split(given.train), "--data", "scenes", "--out", str(base))
    pictures = folder / "pictures"
    drawn(pictures)
    judge = load(given.judge) if given.judge else None
    found: dict[str, dict[str, Any]] = {}
    for way in given.ways.split(","):
        for seed in map(int, given.seeds.split(",")):
            place = folder / f"{way}-seed{seed}"
            words, caption = WAYS[way]
            if not (place / "README.md").exists():
                kind = ["--kind" if words[0] == "dreambooth" else "--like", given.kind]
                what = ["--run", str(base), "--images", str(pictures), *kind]
                maquette("train", *words, *what, "--budget", given.budget, "--seed", str(seed), "--out", str(place))
            commit = str(Run.open(place).record["versions"]["git"])[:8]
            told = judged(place, caption.format(kind=given.kind), f"a {given.kind}", judge)
            found[f"{way}, seed {seed}"] = {"commit": commit, **told}
    record = Run.open(base).record
    path = Path(__file__).parent / f"{date.today()}-dreambooth-{record['recipe']}.md"
    path.write_text(table(found, record, given.budget) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def maquette(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "maquette", *words, "--threads", "1", "-q"], check=True)


def drawn(folder: Path) -> None:
    """The five pictures as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(discs(len(GROUNDS))):
        Image.fromarray((picture.transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(folder / f"{i}.png")


@torch.no_grad()
def judged(place: Path, caption: str, plain: str, judge: Loaded | None) -> dict[str, Any]:
    """Every figure of one run, and a sheet: the pictures, as the codec has them, told the word, on each ground, told the kind."""
    run = load(place)
    system, base = run.system, run.system.instead("base" if "base" in run.system.roles() else "main")
    told: dict[str, Any] = {"step": run.progress.step, "seconds": run.progress.seconds}
    evidence, own = Evidence(run.data, system), run.data.held.all()["image"]
    asked = ((base, plain, 0), (base, plain, 1), (system, plain, 0), (system, caption, 0))
    seen = [evidence.rounded(identity.told(who, text, N, seed)) for who, text, seed in asked]
    figures = identity.figures(*(features.apply(evidence.network, each) for each in (*seen, own)))
    told |= {name: list(each) for name, each in figures.items()}
    if judge is not None:
        old, _, kept, new = (closeness(judge, each, own) for each in seen)
        told |= {"clip": list(mean(new)), "clip (base)": list(mean(old)), "clip (kind)": list(mean(kept))}
        told["clip gain"] = list(mean(new - old))
    grounds = [name for name in GROUNDS for _ in range(N // len(GROUNDS))]
    on = system.sample(N, about={"text": [f"{caption} on {ground}" for ground in grounds]}, seed=2)["image"]
    told["ground told"] = list(proportion(int((ground_of(on) == torch.arange(N) // (N // len(GROUNDS))).sum()), N))
    rebuilt = system.decode(system.encode({"image": own}))
    rows = [own, rebuilt, seen[3][:10], on[:: N // 10][:10], seen[2][:10], seen[0][:10]]
    (place / "samples").mkdir(exist_ok=True)
    (place / "samples" / "identity.png").write_bytes(png(grid(torch.cat(rows), columns=10, zoom=2)))
    return told


def closeness(judge: Loaded, images: torch.Tensor, own: torch.Tensor) -> np.ndarray:
    """Cosine of each sample with the mean of the pictures, in a judge's space: float64[N]."""
    compare = judge.system.objective
    assert isinstance(compare, Comparing)
    mine, theirs = (compare.embed(judge.system, {"image": each})["image"] for each in (images, own))
    return (mine @ F.normalize(theirs.mean(0), dim=0)).double().numpy()


def ground_of(images: torch.Tensor) -> torch.Tensor:
    """The ground whose colour is nearest to the border's median: int64[N]."""
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], 2).median(2).values
    return torch.cdist(border, torch.tensor(list(GROUNDS.values())) / 255).argmin(1)


def table(found: dict[str, dict[str, Any]], record: dict[str, Any], budget: str) -> str:
    """A row per figure, a column per run."""
    lines = [
        f"# A thing of one's own on {record['recipe']}, {date.today()}",
        "",
        f"Five pictures of a disc of two halves, {budget} of training on one thread, on a run of {record['recipe']}. Identity is",
        "the cosine of a sample with the pictures, in features about the point halfway to what the base draws of the kind: -1 =",
        "any of its kind, `real` = the pictures among themselves. 95 % intervals over 100 samples; gains are paired by noise.",
        f"Made by `python benchmarks/dreambooth.py`, torch {versions()['torch']}.",
        "",
        *side_by_side(found),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
