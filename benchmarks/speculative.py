"""Speculative decoding of code: how much faster texts are written with drafts that the network checks, and that nothing changes.

    python benchmarks/speculative.py [--depth 8] [--budget 240s] [--draft 60s] [--prompts 6] [--length 96] [--keep FOLDER]

A network and a small draft learn the standard library's source by `maquette train`, one thread each, and share its symbols. Then
the network writes on from the beginnings of held-out files: plainly, with the draft's guesses, and with the page's own (lookup);
greedily and at temperature .8. Rounds alternate in one process; CPU-seconds per symbol that is written, medians over prompts of
ratios.
Greedy texts must be the same; that sampled ones have the same distribution is a test's matter (tests/test_speculative.py).
Losses included. Writes benchmarks/DATE-speculative.md and .json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from maquette.contracts import IGNORE
from maquette.loading import load
from maquette.opened import Loaded
from maquette.runs import versions
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.speculative import Another, Lookup, Speculative

BEGUN = 48  # symbols of a prompt
HERE = Path(__file__).parent


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--depth", type=int, default=8)
    asked.add_argument("--budget", default="240s")
    asked.add_argument("--draft", default="60s")
    asked.add_argument("--prompts", type=int, default=6)
    asked.add_argument("--length", type=int, default=96)
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-speculative-"))
    whole, small = trained(folder / "whole", given.depth, given.budget), trained(folder / "draft", 1, given.draft)
    sizes = [sum(p.numel() for p in run.system.nets.parameters()) / 1e6 for run in (whole, small)]
    lines = [
        f"# Speculative decoding of code, {date.today()}",
        "",
        f"Network {sizes[0]:.1f} M weights (depth {given.depth}, {whole.progress.seconds:.0f} CPU-s), draft {sizes[1]:.1f} M "
        f"(depth 1, {small.progress.seconds:.0f} CPU-s).",
        f"{given.prompts} held-out files, {BEGUN} symbols of each, {given.length} more are written; one thread.",
        f"Commit {versions()['git'][:8]}, torch {versions()['torch']}. Made by `python benchmarks/speculative.py`. Bar: 1.5.",
        "",
        "| symbols are chosen | drafts | guesses at a time | times as fast | same text |",
        "|---|---|---|---|---|",
    ]
    told: dict[str, Any] = {}
    for temperature in (0.0, 0.8):
        own = Autoregressive(temperature=temperature)
        sides: dict[str, Any] = {"none": own}
        for ahead in (2, 4):
            sides[f"the draft, {ahead}"] = Speculative(own, Another(small.system), ahead)
        sides["lookup, 4"] = Speculative(own, Lookup(), 4)
        took: dict[str, list[float]] = {name: [] for name in sides}
        same = dict.fromkeys(sides, 0)
        for start in prompts(whole, given.prompts, given.length):
            made = {}
            for name, sampler in sides.items():
                began = time.process_time()
                made[name] = whole.system.sample(1, start=start, seed=0, sampler=sampler)["code"][0]
                written = int((made[name] != IGNORE).sum()) - BEGUN
                took[name].append((time.process_time() - began) / max(1, written))
                same[name] += made[name].tolist() == made["none"].tolist()
        for name in list(sides)[1:]:
            ratio = statistics.median(plain / each for plain, each in zip(took["none"], took[name], strict=True))
            drafts, _, ahead_of = name.rpartition(", ")
            text = f"{same[name]} of {given.prompts}" if temperature == 0 else "-"
            how = "greedily" if temperature == 0 else f"at temperature {temperature}"
            lines.append(f"| {how} | {drafts} | {ahead_of} | {ratio:.2f} | {text} |")
            told[f"{how}, {name}"] = {"times as fast": ratio, "same": same[name]}
            print(lines[-1], flush=True)
    path = HERE / f"{date.today()}-speculative.md"
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")


def trained(place: Path, depth: int, budget: str) -> Loaded:
    """A run of gpt, unless it is there already."""
    if not (place / "README.md").exists():
        words = ["--depth", str(depth), "--budget", budget, "--seed", "0", "--threads", "1", "--out", str(place), "-q"]
        subprocess.run([sys.executable, "-m", "maquette", "train", "gpt", *words], check=True)
    return load(place)


def prompts(run: Loaded, count: int, length: int) -> list[torch.Tensor]:
    """Beginnings of held-out files, and room: int64[1,T] each."""
    held: Any = run.data.held
    found = []
    for text in held.documents:
        code = run.system.codec.encode([text[:2000]])[:, :BEGUN]
        if code.shape[1] == BEGUN:
            found.append(torch.nn.functional.pad(code, (0, length), value=IGNORE))
    return found[:: max(1, len(found) // count)][:count]


if __name__ == "__main__":
    main()
