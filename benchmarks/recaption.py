"""Better captions on scenes: does a text-to-image system learn more from captions that a captioner rewrote?

    python benchmarks/recaption.py [--seeds 0,1] [--codec 480s] [--captioner 240s] [--budget 600s]
                                   [--kinds terse,recaptioned,dense] [--captions 1000] [--codecs FOLDER] [--keep FOLDER]

Per seed: a codec (or, with --codecs, that of an earlier benchmark, kl_codec-seedN); a captioner, which learns from terse captions
and one in 20 full ones; then the same network for as many steps on terse captions, on rewritten ones (95 in 100), and on the true
full ones, which is the most that rewriting could give. The first of the kinds is trained by --budget, the others for its steps.
Adherence to full captions of pairs of colour and shape that no training row has, of the same captions and the same noise; paired
differences with a 95 % interval over captions. One thread. Writes benchmarks/DATE-recaption.md and .json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tables import side_by_side
from torch import Tensor

from maquette.data import open_data
from maquette.loading import load
from maquette.metrics import adherence, captions
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion
from maquette.report.pictures import grid, png
from maquette.runs import Run, versions

SOME = 1000  # rows that the captioner is judged on
KINDS = ("terse", "recaptioned", "dense")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--codec", default="480s")
    asked.add_argument("--captioner", default="240s")
    asked.add_argument("--budget", default="600s")
    asked.add_argument("--kinds", default=",".join(KINDS))
    asked.add_argument("--captions", type=int, default=adherence.MOST)
    asked.add_argument("--codecs", default="")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-recaption-"))
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for seed in map(int, given.seeds.split(",")):
        codec = Path(given.codecs or folder) / f"kl_codec-seed{seed}"
        codec = codec if codec.exists() else folder / codec.name
        trained(codec, "kl_codec", seed, ["--budget", given.codec, "--data", "scenes", "--patch", "4", "--latent", "4"])
        writer = folder / f"captioner-seed{seed}"
        trained(writer, "captioner", seed, ["--budget", given.captioner])
        told, right, length = written(writer), {}, ["--budget", given.budget]
        for kind in given.kinds.split(","):
            place = folder / f"{kind}-seed{seed}"
            more = {"terse": [], "recaptioned": ["--captioner", str(writer)], "dense": ["--data", "scenes"]}[kind]
            trained(place, "recaption", seed, [*length, "--codec", str(codec), *more])
            told |= {f"{kind}, {name}": value for name, value in judged(place, right, kind, given.captions).items()}
            length = ["--steps", str(load(place).progress.step)]
        found[f"seed {seed}"] = told | differences(right)
    path = Path(__file__).parent / f"{date.today()}-recaption.md"
    commits = dict.fromkeys(Run.open(place).record["versions"]["git"][:8] for place in sorted(folder.glob("*-seed*")))
    path.write_text(table(found, list(commits)) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def trained(place: Path, recipe: str, seed: int, more: list[str]) -> None:
    """A run of a recipe, unless it is there already."""
    if (place / "README.md").exists():
        return
    words = ["train", recipe, "--seed", str(seed), "--threads", "1", "--out", str(place), "-q", *more]
    subprocess.run([sys.executable, "-m", "maquette", *words], check=True)


def written(place: Path) -> dict[str, Any]:
    """How well the captioner writes, always the likeliest symbol: of held-out rows, and of training rows with terse captions."""
    run, whole = load(place), open_data("scenes")
    assert run.system.sampler is not None
    greedy = replace(run.system.sampler, temperature=0.0)  # type: ignore[type-var]
    known = torch.tensor([bool(text) for text in open_data("scenes_terse").train.columns["full_text"]])
    rows = {"new pairs": torch.arange(len(whole.held)), "terse rows": (~known).nonzero()[:, 0]}
    told: dict[str, Any] = {"captioner steps": run.progress.step, "captioner seconds": run.progress.seconds}
    for name, places in rows.items():
        batch = whole.splits["held" if name == "new pairs" else "train"].rows(places[:SOME])
        made = run.system.sample(len(batch["text"]), about={"image": batch["image"]}, sampler=greedy)["text"]
        right = captions.agreement(made, batch["text"], Evidence(whole, run.system))
        told |= {
            f"captioner on {name}, {factor.removeprefix('caption, ')}": share(torch.tensor(each))
            for factor, each in right.items()
        }
    return told


def judged(place: Path, right: dict[str, Tensor], kind: str, count: int) -> dict[str, Any]:
    """Shares of held-out captions that samples show, kept in `right`; and a sheet of samples."""
    run = load(place)
    evidence = Evidence(open_data("scenes"), run.system)  # one judge and one held-out set for all
    net = adherence.judge(evidence)
    chosen = torch.from_numpy(evidence.some("held", count))
    asked = {name: adherence.rows(column, chosen) for name, column in evidence.held.items()}
    images = run.system.sample(len(chosen), about={"text": asked["text"]}, seed=0)["image"]
    (place / "samples" / "captions.png").write_bytes(png(grid(images[:40], zoom=2)))
    each = adherence.correct(net, evidence.rounded(images), asked)
    right[kind] = each.all(1)
    told = {"steps": run.progress.step, "seconds": run.progress.seconds, "adherence": share(each.all(1))}
    return told | {f"adherence, {factor}": share(each[:, i]) for i, factor in enumerate(net.names)}


def differences(right: dict[str, Tensor]) -> dict[str, Any]:
    """What one kind of captions gives over another, caption by caption."""
    pairs = [("recaptioned", "terse"), ("dense", "recaptioned")]
    return {
        f"{one} - {other}": list(mean((right[one].double() - right[other].double()).numpy()))
        for one, other in pairs
        if one in right and other in right
    }


def share(right: Tensor) -> list[float]:
    """Value, low, high."""
    return list(proportion(int(right.sum()), len(right)))


def table(found: dict[str, dict[str, Any]], commits: list[str]) -> str:
    """A row per figure, a column per seed."""
    lines = [
        f"# Better captions on scenes, {date.today()}",
        "",
        "Shares of held-out captions (colour and shape never seen together) of which a sample shows all, or the factor named, by",
        "the captions that the system learned from: terse; 95 in 100 rewritten by the captioner; the true full ones. As many",
        "steps each. Of the captioner: shares of its captions that say all that the true full ones say, or the factor named.",
        "95 % intervals.",
        f"One thread. Made by `python benchmarks/recaption.py`, torch {versions()['torch']}, trained at {', '.join(commits)}.",
        "",
        *side_by_side(found),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
