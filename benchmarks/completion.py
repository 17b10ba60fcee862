"""A contact sheet of completions: held-out pictures, what was shown of each, and what a run makes of the rest.

python benchmarks/completion.py RUN OUT.png [--hide bottom] [--pictures 8] [--each 6] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from maquette import api
from maquette.completion import PARTS, hidden, occluded
from maquette.report.pictures import grid, png
from maquette.storage import replace_durably


def sheet(run: api.Loaded, hide: str, pictures: int, each: int, seed: int) -> torch.Tensor:
    """Row by row: the picture, what was shown of it (the rest grey), `each` completions: float[N,C,H,W]."""
    held = run.data.held
    spread = torch.linspace(0, len(held) - 1, pictures).long()
    images = held.rows(spread)["image"]
    start = occluded(run.system.codec, images.to(run.system.device), hidden(hide, *images.shape[2:])).repeat_interleave(each, 0)
    made = run.sample(len(start), start=start, seed=seed)["image"].cpu().unflatten(0, (pictures, each))
    shown = images.masked_fill(hidden(hide, *images.shape[2:]), 0.5)
    return torch.cat([images[:, None], shown[:, None], made], 1).flatten(0, 1)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("run")
    asked.add_argument("out", type=Path)
    asked.add_argument("--hide", default="bottom", choices=list(PARTS))
    asked.add_argument("--pictures", type=int, default=8)
    asked.add_argument("--each", type=int, default=6)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    run = api.load(given.run)
    images = sheet(run, given.hide, given.pictures, given.each, given.seed)
    info = {"run": given.run, "hide": given.hide, "seed": given.seed, "rows": "picture, shown, completions"}
    replace_durably(given.out, png(grid(images, columns=given.each + 2), info))
    print(f"{given.out}: {given.pictures} pictures, {given.each} completions each")


if __name__ == "__main__":
    main()
