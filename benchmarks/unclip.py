"""unclip on scenes: does the prior help, does the vector tell more than the caption, do variations keep what a picture shows?

    python benchmarks/unclip.py [--seeds 0,1] [--encoder 120s] [--budget 600s] [--captions 1000] [--keep FOLDER]

A clip run first, then unclip on it, by `maquette train` on one thread. Held-out rows are pairs of colour and shape that no
training row has. All figures of a run are of the same captions and the same noise, read by the judge of
maquette/metrics/adherence.py; differences with a 95 % interval over captions. Losses included.
Writes benchmarks/DATE-unclip.md and .json, and sheets of samples in each run's folder.
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

from maquette.conditioners.comparing import Embedded
from maquette.conditioners.stage import Stage
from maquette.contracts import Batch
from maquette.dials import turned
from maquette.loading import load
from maquette.metrics import adherence
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion
from maquette.opened import Loaded
from maquette.report.pictures import grid, png
from maquette.runs import Run, versions

MEANT = {
    "prior": "the vector drawn by the prior, and the caption: as `maquette sample` has it",
    "prior, plain": "the same without guidance",
    "prior, one draw": "the same as `prior`, whatever vector comes first",
    "prior, no caption": "the drawn vector alone",
    "straight": "the caption's own CLIP vector in place of a drawn one",
    "caption alone": "no vector",
    "varied": "the held-out picture's own vector, no caption: variations of it",
    "varied, crossed": "the same, and the caption of another row: the picture's factors",
    "crossed": "the same samples: the caption's factors",
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--encoder", default="120s")
    asked.add_argument("--budget", default="600s")
    asked.add_argument("--captions", type=int, default=1000)
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-unclip-"))
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for seed in map(int, given.seeds.split(",")):
        encoder, place = folder / f"clip-seed{seed}", folder / f"unclip-seed{seed}"
        trained(encoder, "clip", seed, given.encoder, [])
        trained(place, "unclip", seed, given.budget, ["--encoder", str(encoder)])
        found[f"seed {seed}"] = {"clip seconds": load(encoder).progress.seconds, **judged(place, given.captions)}
        path = Path(__file__).parent / f"{date.today()}-unclip.md"
        commits = dict.fromkeys(Run.open(each).record["versions"]["git"][:8] for each in sorted(folder.glob("unclip-seed*")))
        path.write_text(table(found, list(commits)) + "\n")
        path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def trained(place: Path, recipe: str, seed: int, budget: str, more: list[str]) -> None:
    """A run of a recipe on scenes, unless it is there already."""
    if (place / "README.md").exists():
        return
    words = ["train", recipe, "--data", "scenes", "--budget", budget, "--seed", str(seed), "--threads", "1", "--out", str(place)]
    subprocess.run([sys.executable, "-m", "maquette", *words, "-q", *more], check=True)


def judged(place: Path, captions: int) -> dict[str, Any]:
    """Every figure of one run, and sheets of its samples."""
    run = load(place)
    evidence = Evidence(run.data, run.system)
    net = adherence.judge(evidence)
    chosen = torch.from_numpy(evidence.some("held", captions))
    asked = {name: adherence.rows(column, chosen) for name, column in evidence.held.items()}
    other = torch.arange(len(chosen)).roll(1)
    crossed = {name: adherence.rows(column, other) for name, column in asked.items()}
    said, told = vectors(run, asked)
    none = [""] * len(chosen)
    ways: dict[str, tuple[Batch, float]] = {
        "prior": ({"text": asked["text"], "embedding": said["prior"]}, 2.0),
        "prior, plain": ({"text": asked["text"], "embedding": said["prior"]}, 1.0),
        "prior, one draw": ({"text": asked["text"], "embedding": said["one"]}, 2.0),
        "prior, no caption": ({"text": none, "embedding": said["prior"]}, 2.0),
        "straight": ({"text": asked["text"], "embedding": said["caption"]}, 2.0),
        "caption alone": ({"text": asked["text"], "embedding": 0 * said["caption"]}, 2.0),
        "varied": ({"text": none, "embedding": said["picture"]}, 2.0),
        "varied, crossed": ({"text": crossed["text"], "embedding": said["picture"]}, 2.0),
    }
    right: dict[str, torch.Tensor] = {}
    told |= {"step": run.progress.step, "seconds": run.progress.seconds, "captions": len(chosen)}
    told["real"] = share(adherence.correct(net, asked["image"], asked).all(1))
    told["rebuilt"] = share(adherence.correct(net, evidence.rebuilt[chosen], asked).all(1))
    for name, (about, guidance) in ways.items():
        sampler = turned(run.system.sampler, {"guidance": str(guidance)})
        images = evidence.rounded(run.system.sample(len(chosen), about=about, seed=0, sampler=sampler)["image"])
        right[name] = adherence.correct(net, images, asked)
        if name == "varied, crossed":
            right["crossed"] = adherence.correct(net, images, crossed)
        rows = torch.stack([asked["image"][:10], images[:10]]).flatten(0, 1) if name == "varied" else images[:40]
        (place / "samples" / f"{name.replace(', ', '-').replace(' ', '-')}.png").write_bytes(png(grid(rows, zoom=2)))
    for name, found in right.items():
        told[name] = share(found.all(1))
        told |= {f"{name}: {factor}": share(found[:, i]) for i, factor in enumerate(net.names)}
    for one, two in (("prior", "straight"), ("prior", "prior, one draw"), ("prior", "prior, plain"), ("prior", "caption alone")):
        told[f"{one} - {two}"] = list(mean((right[one].all(1).double() - right[two].all(1).double()).numpy()))
    return told


@torch.no_grad()
def vectors(run: Loaded, asked: Batch) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Unit vectors of held-out rows: pictures', captions', the prior's of two draws and of one; how close those are."""
    conditioner: Any = run.system.conditioner
    stage = next(part for part in conditioner.modules() if isinstance(part, Stage))
    embedded = next(part for part in conditioner.modules() if isinstance(part, Embedded))
    before, compare = stage.before, embedded.compare
    said = {
        "picture": embedded.read(asked["image"]),
        "caption": compare.objective.embed(compare, {"text": asked["text"]})["text"],
    }
    for name, draws in (("prior", 2), ("one", 1)):
        sampler = replace(before.sampler, of=draws)
        said[name] = before.sample(len(asked["text"]), about={"text": asked["text"]}, seed=0, sampler=sampler)["embedding"]
    close = {name: list(mean((said[name] * said["picture"]).sum(1).double().numpy())) for name in ("caption", "one", "prior")}
    return said, {f"cosine with the picture's, {name}": value for name, value in close.items()}


def share(right: torch.Tensor) -> list[float]:
    """Value, low, high."""
    return list(proportion(int(right.sum()), len(right)))


def table(found: dict[str, dict[str, Any]], commits: list[str]) -> str:
    """A row per figure, a column per seed."""
    lines = [
        f"# unclip on scenes, {date.today()}",
        "",
        "Shares of held-out captions (colour and shape never seen together) of which a sample shows all, or the factor named,",
        "under guidance 2 where nothing else is said; 95 % intervals over captions. `real`: the held-out pictures themselves;",
        "`rebuilt`: made small, and large again by the last stage. What the decoder is told:",
        "",
        *(f"- {name}: {meant}" for name, meant in MEANT.items()),
        "",
        f"One thread. Made by `python benchmarks/unclip.py`, torch {versions()['torch']}, trained at {', '.join(commits)}.",
        "",
        *side_by_side(found),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
