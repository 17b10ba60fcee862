"""The adversarial bars: each system trained for its budget and scored, seeds side by side, losses included.

    python benchmarks/gans.py [--seeds 0,1] [--systems stylegan2,cyclegan] [--budget 60] [--keep FOLDER]

`--budget` replaces every system's own seconds. Trained by `maquette train`, scored by `maquette eval`, one thread each; what
FOLDER holds already is not done again, and systems measured earlier the same day keep their rows. Beside those figures:
StyleGAN2's truncation and its noise, CycleGAN's digits read by an SVM, pix2pix's distance to true counterparts.
Writes benchmarks/DATE-gans.md and .json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.api import Loaded, load
from maquette.data import open_data
from maquette.metrics.evidence import Evidence
from maquette.metrics.precision_recall import manifolds
from maquette.runs import versions
from maquette.samplers.styled import Style

BUDGET = {"stylegan2": 600, "cyclegan": 150, "pix2pix": 60, "wgan_gp": 60, "dcgan": 60}  # CPU-seconds
# figure -> (at most / at least, bar); the figures' names are those of eval.json or of EXTRA, matched by prefix
BARS: dict[str, dict[str, tuple[str, float]]] = {
    "stylegan2": {"GAN-test": (">=", 0.85), "GAN-train": (">=", 0.80), "recall": (">=", 0.3)},
    "cyclegan": {"real digits read": (">=", 0.66)},
}


def truncation(run: Loaded) -> dict[str, float]:
    """Precision and recall at truncations, and the share of what noise changes that is above 4 cycles per image."""
    found: dict[str, float] = {}
    evidence = Evidence(run.data, run.system, n=2000)
    about, features = evidence.requests(), evidence.network
    real = evidence.held_features
    for psi in (1.0, 0.7, 0.4):
        made = run.system.sample(2000, about=about, sampler=Style(psi))["image"]
        with torch.no_grad():
            seen = features(evidence.rounded(made)).double().numpy()
        precise, _, recalled, _ = manifolds(real[:2000], seen)
        found |= {f"precision at {psi}": float(precise.mean()), f"recall at {psi}": float(recalled.mean())}
    loud, still, other = (
        run.system.sample(500, about={"label": about["label"][:500]}, seed=seed, sampler=Style(noise=noise))["code"]
        for seed, noise in ((0, 1.0), (0, 0.0), (1, 0.0))
    )
    return {**found, "noise above 4 cycles": high(loud - still), "another image above 4 cycles": high(other - still)}


def high(change: Tensor) -> float:
    """Share of a change's energy above 4 cycles per image."""
    power = torch.fft.fft2(change.float().flatten(0, 1)).abs().square().mean(0)
    f = torch.fft.fftfreq(change.shape[-1]).abs() * change.shape[-1]
    return float(power[(f[:, None] > 4) | (f > 4)].sum() / power.sum())


def reading(run: Loaded) -> dict[str, float]:
    """An SVM trained on font digits, translated or as they are, on all 1,797 handwritten ones."""
    from sklearn.svm import SVC

    fonts, hands = run.data.train.all(), open_data("digits")
    images = torch.cat([part.all()["image"] for part in (hands.train, hands.held)]).flatten(1).numpy()
    labels = torch.cat([part.all()["label"] for part in (hands.train, hands.held)]).numpy()
    translated = run.system.sample(len(fonts["source"]), batch=1000, about={"source": fonts["source"]})["image"]
    found = {}
    for name, sources in (("real digits read", translated), ("untranslated", fonts["source"])):
        judge = SVC(C=10).fit(sources.flatten(1).numpy(), fonts["source_label"].numpy())
        found[name] = float((judge.predict(images) == labels).mean())
    return found


def likeness(run: Loaded) -> dict[str, float]:
    """Mean absolute distance of held-out translations to their true counterparts, and that of the sources themselves."""
    held = run.data.held.all()
    made = run.system.sample(len(held["image"]), about={"source": held["source"]})["image"]
    away = {"L1 to the counterpart": made, "L1 of the source": held["source"]}
    return {name: float((images - held["image"]).abs().mean()) for name, images in away.items()}


EXTRA = {"stylegan2": truncation, "cyclegan": reading, "pix2pix": likeness}


def measured(name: str, seed: int, seconds: int, folder: Path) -> dict[str, Any]:
    """All figures of one run, trained and scored if they are not there yet."""
    place = folder / f"{name}-seed{seed}"
    env, base = {**os.environ, "OMP_NUM_THREADS": "1"}, [sys.executable, "-m", "maquette"]
    if not (place / "run.json").exists():
        train = ["train", name, "--budget", f"{seconds}s", "--seed", str(seed), "--out", str(place), "--threads", "1", "-q"]
        subprocess.run([*base, *train], env=env, check=True)
    if not (place / "eval.json").exists():
        subprocess.run([*base, "eval", str(place), "--threads", "1", "--json"], env=env, check=True, capture_output=True)
    told = json.loads((place / "eval.json").read_text())
    figures = {key: value["value"] for key, value in told["metrics"].items()}
    run = load(place)
    more = EXTRA[name](run) if name in EXTRA else {}
    commit = run.run.record["versions"]["git"][:8]
    return {**figures, **more, "seconds": run.progress.seconds, "step": run.progress.step, "commit": commit}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--systems", default=",".join(BUDGET))
    asked.add_argument("--budget", type=int, default=0)
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-gans-"))
    seeds = [int(seed) for seed in given.seeds.split(",")]
    path = Path(__file__).parent / f"{date.today()}-gans.md"
    values: dict[str, dict[str, dict[str, Any]]] = {}
    if path.with_suffix(".json").exists():  # what was measured today stays beside what is measured now
        values = json.loads(path.with_suffix(".json").read_text())
    for name in given.systems.split(","):
        values[name] = {str(seed): measured(name, seed, given.budget or BUDGET[name], folder) for seed in seeds}
    path.write_text(table(values) + "\n")
    path.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")
    print(path.read_text())


def table(values: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Every figure of every run, and each bar beside what was measured."""
    lines = [f"# Adversarial systems, {date.today()}", "", "One thread per system; seeds side by side. Losses included.", ""]
    lines += [f"Made by `python benchmarks/gans.py`, torch {versions()['torch']}.", ""]
    for name, seeds in values.items():
        first: dict[str, Any] = next(iter(seeds.values()))
        lines += [
            f"## {name}",
            "",
            f"Trained at {', '.join(dict.fromkeys(run['commit'] for run in seeds.values()))}.",
            "",
            f"| figure | {' | '.join(f'seed {s}' for s in seeds)} | bar | met |",
            "|---" * (len(seeds) + 3) + "|",
        ]
        for figure in (key for key in first if key != "commit"):
            sign, bar = next((b for key, b in BARS.get(name, {}).items() if figure == key), ("", 0.0))
            row = [run[figure] for run in seeds.values()]
            met = "" if not sign else "yes" if all(v >= bar for v in row) else "no"
            lines.append(f"| {figure} | {' | '.join(f'{v:.3f}' for v in row)} | {f'{sign} {bar}' if sign else ''} | {met} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
