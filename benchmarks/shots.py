"""Learning from examples in the text: accuracy on held-out tasks by how many examples stand before, and which layers it hangs on.

    python benchmarks/shots.py [--seeds 0,1] [--steps 1500]

gpt3's recipe on `tasks` (ciphers shown by 24 examples each, held out by cipher), and the same with other layers: without smeared
embeddings, without bands, with GPT-3's own as published. All learn through the one loop, for as many steps, on one thread. Beside
them stands the best that anyone could do, whoever infers all there is to infer (maquette/data/tasks.py). Losses included.
Writes benchmarks/DATE-shots.md and .json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from maquette.data.tasks import LINES, best
from maquette.distributed import World
from maquette.metrics.evidence import Evidence
from maquette.metrics.shots import answered
from maquette.networks import presets
from maquette.networks.style import Near, Style
from maquette.recipes._causal import causal, tokenizer_of
from maquette.recipes.families import EXPECTED_SHOTS
from maquette.runs import versions
from maquette.train import Progress, ready, run

CONTEXT, WINDOW, VOCAB, DEPTH = 80, 40, 300, 2  # the recipe's
SHOTS = (0, 1, 2, 4, 8, 16, LINES - 1)
BANDS = Near(WINDOW, (False, True))
STYLES: dict[str, Callable[[], Style]] = {
    "gpt3, the recipe": lambda: replace(presets.small(), near=BANDS),
    "without bands": presets.small,
    "without smeared embeddings": lambda: replace(presets.small(), near=BANDS, smear=False),
    "GPT-3's own layers": lambda: presets.gpt3(CONTEXT, WINDOW),
    "GPT-3's own, smeared": lambda: replace(presets.gpt3(CONTEXT, WINDOW), smear=True),
}
HERE = Path(__file__).parent


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--steps", type=int, default=1500)
    given = asked.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"# Accuracy by examples, {date.today()}",
        "",
        f"Held-out ciphers, 1,000 texts; depth {DEPTH}, {given.steps} steps; a 95 % interval is at most .031 to each side.",
        f"One thread. Commit {versions()['git'][:8]}, torch {versions()['torch']}. Made by `python benchmarks/shots.py`.",
        "",
        "| layers | seed | CPU-s | " + " | ".join(f"{shots} shots" for shots in SHOTS) + " |",
        "|---|---|---|" + "---|" * len(SHOTS),
        "| the best there is | | | " + " | ".join(f"{best(shots):.3f}" for shots in SHOTS) + " |",
    ]
    told: dict[str, dict[str, object]] = {}
    for name, style in STYLES.items():
        for seed in map(int, given.seeds.split(",")):
            right, seconds = learnt(style(), seed, given.steps)
            lines.append(
                "| " + " | ".join([name, str(seed), f"{seconds:.0f}", *(f"{right[shots]:.3f}" for shots in SHOTS)]) + " |"
            )
            told.setdefault(name, {})[str(seed)] = {"seconds": seconds, "accuracy": right}
            print(lines[-1], flush=True)
    path = HERE / f"{date.today()}-shots.md"
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")


def learnt(style: Style, seed: int, steps: int) -> tuple[list[float], float]:
    """Accuracy after 0, 1, ... examples, and the training CPU-seconds that it took."""
    torch.manual_seed(seed)
    made = causal("gpt3", "tasks", DEPTH, tokenizer_of("gpt3", "bpe", VOCAB, CONTEXT), style, EXPECTED_SHOTS)
    made.system.learn(made.data.train)
    fit = replace(made.fit, steps=steps)
    ready(made.system, fit)
    progress = Progress(fit, seed)
    for _ in run(made.system, made.data, progress, World()):
        pass
    return answered(Evidence(made.data, made.system)).mean(0).tolist(), progress.seconds


if __name__ == "__main__":
    main()
