"""How the loss of gpt falls with its size, at equal text: a power law fitted over four sizes, held against a fifth.

    python benchmarks/scaling.py [--seeds 0,1] [--depths 1,2,4,6] [--unseen 3] [--steps 600] [--keep FOLDER]

Each size is trained by `maquette train` on one thread for the same number of steps on the same windows, and scored by
`maquette eval` on the whole held-out part. L(N) = E + A N^-a over the weights N beyond the embeddings (Kaplan 2020, sec. 1.2;
the constant after Hoffmann 2022, eq. 2) is fitted to the means over seeds by least squares; the size left out tells what the fit
is worth. Writes benchmarks/DATE-scaling.md and .json.
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

import numpy as np

from maquette.loading import load
from maquette.runs import versions


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--depths", default="1,2,4,6")
    asked.add_argument("--unseen", type=int, default=3)
    asked.add_argument("--steps", type=int, default=600)
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-scaling-"))
    seeds, depths = ([int(part) for part in words.split(",")] for words in (given.seeds, given.depths))
    found: dict[str, dict[str, Any]] = {}
    for depth in sorted({*depths, given.unseen}):
        for seed in seeds:
            found[f"depth {depth}, seed {seed}"] = measured(folder / f"{depth}-{seed}", depth, seed, given.steps)
    sizes = {depth: found[f"depth {depth}, seed {seeds[0]}"]["weights"] for depth in sorted({*depths, given.unseen})}
    means = {depth: float(np.mean([found[f"depth {depth}, seed {seed}"]["bits/byte"] for seed in seeds])) for depth in sizes}
    floor, scale, power = fitted([sizes[d] for d in depths], [means[d] for d in depths])
    lines = [
        f"# The loss of gpt by its size, {date.today()}",
        "",
        f"{given.steps} steps on the same windows of the standard library's source; bits per byte of the whole held-out part.",
        f"One thread each. Made by `python benchmarks/scaling.py`, torch {versions()['torch']}.",
        "",
        "| depth | weights beyond the embeddings | " + " | ".join(f"seed {seed}" for seed in seeds) + " | fit | CPU-s |",
        "|---|---|" + "---|" * (len(seeds) + 2),
    ]
    for depth, size in sizes.items():
        each = [found[f"depth {depth}, seed {seed}"] for seed in seeds]
        cells = [
            f"{depth}{'' if depth in depths else ' (not fitted)'}",
            f"{size:,}",
            *(f"{one['bits/byte']:.4f}" for one in each),
        ]
        cells += [f"{floor + scale * size**-power:.4f}", " / ".join(f"{one['seconds']:.0f}" for one in each)]
        lines.append("| " + " | ".join(cells) + " |")
    far = abs(floor + scale * sizes[given.unseen] ** -power - means[given.unseen])
    lines += ["", f"L(N) = {floor:.3f} + {scale:.3g} N^-{power:.3f}; the size left out is missed by {far:.4f} bits per byte.", ""]
    path = Path(__file__).parent / f"{date.today()}-scaling.md"
    path.write_text("\n".join(lines))
    told = {"fit": {"floor": floor, "scale": scale, "power": power, "missed": far}, "runs": found}
    path.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    print(path.read_text())


def measured(place: Path, depth: int, seed: int, steps: int) -> dict[str, Any]:
    """A run of one size, trained and scored unless it is there already."""
    base = [sys.executable, "-m", "maquette"]
    words = ["--depth", str(depth), "--steps", str(steps), "--seed", str(seed), "--threads", "1", "--out", str(place), "-q"]
    if not (place / "README.md").exists():
        subprocess.run([*base, "train", "gpt", *words], check=True)
    if not (place / "eval.json").exists():
        subprocess.run([*base, "eval", str(place), "--threads", "1", "--metrics", "bytes"], check=True, capture_output=True)
    told, run = json.loads((place / "eval.json").read_text()), load(place)
    net = run.system.nets["main"]
    inside = sum(p.numel() for name, p in net.named_parameters() if not name.startswith(("embed", "head")))
    return {"bits/byte": told["metrics"]["bits/byte"]["value"], "weights": inside, "seconds": run.progress.seconds}


def fitted(sizes: list[int], losses: list[float]) -> tuple[float, float, float]:
    """E, A and a of L = E + A N^-a by least squares: for each a of a grid the other two are linear."""
    size, loss = np.array(sizes, float), np.array(losses)
    best = (np.inf, 0.0, 0.0, 0.0)
    for power in np.linspace(0.01, 1.0, 397):
        design = np.stack([np.ones_like(size), size**-power], 1)
        (floor, scale), *_ = np.linalg.lstsq(design, loss, rcond=None)
        if floor < 0:
            floor, scale = 0.0, float((loss * size**-power).sum() / (size ** (-2 * power)).sum())
        best = min(best, (float(((design @ [floor, scale] - loss) ** 2).sum()), float(floor), float(scale), float(power)))
    return best[1:]


if __name__ == "__main__":
    main()
