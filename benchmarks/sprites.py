"""Disentanglement and rate against distortion: beta-VAEs on sprites at several betas and seeds, every figure with its interval.

    python benchmarks/sprites.py [--seeds 0,1] [--betas 0.5,1,2,4,8,16] [--steps 1000] [--keep FOLDER] [--picture FILE]

Each is trained by `maquette train beta_vae --steps N` in a process of its own on one thread, then scored; what FOLDER holds
already is not done again. The bar (MIG and DCI at beta 4 above beta 1, intervals apart) is checked at every seed.
Writes benchmarks/DATE-sprites.md and .json, and with --picture the latent traversals of beta 4, first seed, as a PNG.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch

from maquette import api, exhibits
from maquette.compare import pending, run_all, stages
from maquette.metrics.estimate import Estimate, compare
from maquette.report.pictures import grid, png
from maquette.runs import versions
from maquette.streams import Streams

FIGURES = ("MIG", "DCI disentanglement", "DCI completeness", "DCI informativeness", "Higgins score")
BAR = ("MIG", "DCI disentanglement")
HERE = Path(__file__).parent


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--betas", default="0.5,1,2,4,8,16")
    asked.add_argument("--steps", type=int, default=1000)
    asked.add_argument("--keep", default="", help="keep the runs in this folder")
    asked.add_argument("--jobs", type=int, default=2, help="systems trained side by side")
    asked.add_argument("--picture", default="", help="write the traversals to this PNG")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    betas, seeds = [float(beta) for beta in given.betas.split(",")], [int(seed) for seed in given.seeds.split(",")]
    entries = []
    for seed in seeds:
        for beta in sorted(betas, key=lambda beta: beta not in (1, 4)):
            place = _place(folder, beta, seed)
            train, (scoring, command) = stages("beta_vae", "sprites", place, "", given.steps, seed, {"beta": beta})
            judge = (scoring, [*command, "-n", "200", "--metrics", "disentanglement"])
            entries.append(pending(place, [train, judge]))
    run_all(entries, jobs=given.jobs, quiet=False)
    told = {(beta, seed): found for beta in betas for seed in seeds if (found := _told(_place(folder, beta, seed)))}
    path = HERE / f"{date.today()}-sprites.md"
    path.write_text(table(told, betas, seeds, given.steps) + "\n")
    plain = {f"beta {beta:g} seed {seed}": found["plain"] for (beta, seed), found in told.items()}
    path.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n")
    if given.picture:
        picture(_place(folder, 4.0, seeds[0]), Path(given.picture))
    print(path.read_text())
    if not given.keep:
        shutil.rmtree(folder)


def _place(folder: Path, beta: float, seed: int) -> Path:
    return folder / f"beta{beta:g}-seed{seed}"


def _told(place: Path) -> dict[str, Any]:
    """A run's figures as estimates and as plain numbers, with rate and distortion of the held-out rows; {} where it failed."""
    path = place / "eval.json"
    if not path.exists():
        return {}
    saved = json.loads(path.read_text())
    figures = {name: Estimate.of(saved["metrics"][name]) for name in FIGURES}
    spent = rate_and_distortion(place)
    plain = {
        **{name: found.value for name, found in figures.items()},
        **spent,
        "seconds": saved["seconds"],
        "step": saved["step"],
    }
    return {"figures": figures, "plain": plain}


@torch.no_grad()
def rate_and_distortion(place: Path) -> dict[str, float]:
    """Nats per held-out picture: rate, distortion, and how many units have a rate of .1 nats or more."""
    found = api.load(place)
    system = found.system
    x, codec = system.encode(found.data.held.all()), system.steady("codec")
    mean, logvar = codec.posterior(x)
    each = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(0)
    z, rate = codec.squeeze(x, Streams.of(0, len(x)))
    distortion = codec.nats(x, z)
    return {"rate": float(rate.mean()), "distortion": float(distortion.mean()), "active": float((each >= 0.1).sum())}


def table(told: dict[tuple[float, int], dict[str, Any]], betas: list[float], seeds: list[int], steps: int) -> str:
    """The bar, then every figure of every run."""
    some = next(iter(told.values()), None)
    rows = some["figures"]["MIG"].n if some else 0
    lines = [
        f"# Disentanglement on sprites, {date.today()}",
        "",
        f"15,360 sprites of five known factors, 10 % held out; beta_vae, {steps:,} steps of 256 rows, one thread.",
        f"torch {versions()['torch']}.",
        f"`python benchmarks/sprites.py --seeds {','.join(map(str, seeds))} --betas {','.join(f'{b:g}' for b in betas)} "
        f"--steps {steps}`",
        f"Figures are over {rows:,} held-out rows of one model; intervals do not hold what another training run would change.",
        "",
        "## Bar: MIG and DCI disentanglement at beta 4 above beta 1, intervals apart",
        "",
        "| figure | seed | beta 1 | beta 4 | met |",
        "|---|---|---|---|---|",
    ]
    for name in BAR:
        for seed in seeds:
            if (1.0, seed) in told and (4.0, seed) in told:
                one, four = told[1.0, seed]["figures"][name], told[4.0, seed]["figures"][name]
                met = "yes" if four.low > one.high and compare(four, one) > 0 else "**no**"
                lines.append(f"| {name} | {seed} | {_shown(one)} | {_shown(four)} | {met} |")
    heads = ["beta", "seed", "CPU-s", "rate, nats", "distortion, nats", "active units", *FIGURES]
    lines += ["", "## Everything measured", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for (beta, seed), found in told.items():
        plain = found["plain"]
        cells = [f"{beta:g}", str(seed), f"{plain['seconds']:.1f}", f"{plain['rate']:.2f}", f"{plain['distortion']:.1f}"]
        cells += [f"{plain['active']:.0f}", *(_shown(found["figures"][name]) for name in FIGURES)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f} .. {found.high:.3f})"


def picture(place: Path, path: Path) -> None:
    """The run's latent traversals as a sheet: a strip per unit."""
    kept = exhibits.read(place / "samples" / "eval.npz")
    lines = next((value for key, value in kept.items() if key.startswith(exhibits.STRIP) and "unit" in key), None)
    if lines is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(grid(lines.flatten(0, 1), columns=lines.shape[1], zoom=2)))


if __name__ == "__main__":
    main()
