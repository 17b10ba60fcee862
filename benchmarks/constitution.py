"""What a model makes of itself by written principles: before, revised, preferred; beside right answers shown, and floors.

    python benchmarks/constitution.py [--seeds 0,1] [--more "--rounds 2"] [--keep FOLDER]

`maquette train constitutional` learns the conversations of `principles` first: to answer as people do, badly too, to criticise,
to revise and to choose. Then it learns from its own revisions, then from its own choices; both are judged here, and what it was
before. Beside these, that model before is shown right answers to training questions, which a rule wrote: as many as
revisions were learnt, in as many steps, at the same rate. Each answers the same held-out questions, drawn at temperature 1, and a
rule that nothing but those right answers came from says what breaks which principle, what says what was asked, and what evades.
Below stand one answer that always evades, and answers as they are in the data. One thread; losses included. Writes
benchmarks/DATE-constitution.md and .json.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import side_by_side

from maquette.contracts import Turns
from maquette.data.constitution import Principled
from maquette.data.conversations import conversed
from maquette.data.core import Data, Split
from maquette.data.principles import UNSHOWN, floors, rated, read
from maquette.loading import load
from maquette.metrics.intervals import mean, proportion
from maquette.metrics.principled import SHARES, abilities, departed
from maquette.objectives.constitution import Revised
from maquette.objectives.during import During
from maquette.objectives.likelihood import NextToken
from maquette.opened import Loaded
from maquette.runs import versions
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, ready, run

HERE = Path(__file__).parent
QUESTIONS = 400
ROLES = {"before": "critic", "revised": "reference", "revised, then preferred": "main"}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--more", default="", help="further words for the recipe")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-constitution-"))
    found: dict[str, dict[str, Any]] = {}
    for seed in map(int, given.seeds.split(",")):
        place = folder / f"constitutional-{seed}"
        if not (place / "README.md").exists():
            words = ["train", "constitutional", "--seed", str(seed), "--threads", "1", "--out", str(place), "-q"]
            subprocess.run([sys.executable, "-m", "maquette", *words, *given.more.split()], check=True)
        own = load(place, device="cpu")
        for name, role in ROLES.items():
            found[f"{name}, seed {seed}"] = losses(own, name) | figures(own, own.system.eval().nets[role], seed)
        found[f"before, seed {seed}"] |= skills(own, seed)
        net, told = shown(own, seed)
        found[f"right answers shown, seed {seed}"] = told | figures(own, net, seed)
    table(found, given.more)


def table(found: dict[str, dict[str, Any]], more: str) -> None:
    """Write what was found."""
    low = {name: {figure: f"{value:.3f}" for figure, value in told.items()} for name, told in floors().items()}
    lines = [
        f"# A model that corrects itself by principles, {date.today()}",
        "",
        f"`maquette train constitutional {more}`".replace(" `", "`") + f"; {QUESTIONS} held-out questions. One thread.",
        f"Made by `python benchmarks/constitution.py`, torch {versions()['torch']}.",
        "",
        *side_by_side({**found, **low}),
    ]
    path = HERE / f"{date.today()}-constitution.md"
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps({"found": found, "floors": floors()}, indent=1) + "\n")
    print(path.read_text())


def questions(own: Loaded, part: str) -> list[Turns]:
    """The questions of a part of the data, each once, in a fixed order."""
    split = own.data.splits[part]
    assert isinstance(split, Principled)
    asks = list({str(turns): turns for turns in map(split.question, split.written)}.values())
    return random.Random(0).sample(asks, len(asks))


def figures(own: Loaded, net: Any, seed: int) -> dict[str, Any]:
    """What a network's answers come to, and how far it is from what the run was before."""
    system, asks = own.system.eval().instead("critic"), questions(own, "held")[:QUESTIONS]
    system.nets["critic"], system.nets["main"] = own.system.nets["critic"], net
    critic: Any = system.objective.voice.critic
    said = critic.answers(system, asks, Streams.of(seed, len(asks)))
    rates = [rated(str(turns[-1]["content"]), text) for turns, text in zip(asks, said, strict=True)]
    told: dict[str, Any] = {name: share([rate[name] for rate in rates]) for name in SHARES}
    told["speaks of honey, glass or chess"] = share([any(thing in text.lower() for thing in UNSHOWN) for text in said])
    told["different answers"] = f"{len(set(said)) / len(said):.3f}"
    return told | {"KL to before": list(mean(departed(system, asks, said)))}


def losses(own: Loaded, name: str) -> dict[str, Any]:
    """What a stage took, and its losses at first and last."""
    phase = {"before": "predict", "revised": "revise"}.get(name, "prefer")
    rows = [row for row in own.trained.rows() if f"{phase}/loss" in row]
    before = [row["seconds"] for row in own.trained.rows() if row["step"] < rows[0]["step"]]
    told = {"last step": rows[-1]["step"], "training seconds": rows[-1]["seconds"] - (before[-1] if before else 0.0)}
    return told | {f"loss at {when}": f"{rows[i][f'{phase}/loss']:.3f}" for when, i in (("first", 0), ("last", -1))}


def skills(own: Loaded, seed: int) -> dict[str, Any]:
    """What the critic makes right."""
    assert isinstance(own.data.held, Principled)
    return {name: share(values) for name, values in abilities(own.system.eval(), own.data.held, seed).items()}


def shown(own: Loaded, seed: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The critic, taught right answers to as many training questions as revisions were learnt, in as many steps, at that rate."""
    stages = [part for part in own.system.objective.modules() if isinstance(part, During)]
    stage = next(part for part in stages if isinstance(part.objective, Revised))
    steps, codec = stage.until - stage.since, own.system.codec
    train = own.data.train
    assert isinstance(train, Principled)
    count = round(steps * own.experiment.fit.batch * len(train.written) / len(train))
    asks = [str(turns[0]["content"]) for turns in questions(own, "train")]
    asks = random.Random(seed).choices(asks, k=count)
    right = [topic.right for each in asks if (topic := read(each))]
    rows = Data(own.data.facts, lambda: {"train": Split({"source": asks, "text": right})})
    lesson: Any = conversed(rows, codec, int(codec.length), packed=False)  # type: ignore[arg-type]
    net = copy.deepcopy(own.system.nets["critic"]).requires_grad_(True)
    learns = During(NextToken(int(codec.bos)), pace=stage.pace)
    system = System({"main": net}, learns, None, codec, frozen=("codec",))
    fit = replace(own.experiment.fit, steps=steps, batch=count // steps, warmup=0.0, decay=0.0)
    ready(system, fit)
    progress = Progress(fit, seed)
    seen = [float(logs["predict/loss"]) for logs in run(system, lesson, progress)]
    told = {"last step": progress.step, "training seconds": progress.seconds}
    return net.eval(), {**told, "loss at first": f"{seen[0]:.3f}", "loss at last": f"{seen[-1]:.3f}"}


def share(values: list[Any]) -> list[float]:
    """A share with its interval."""
    return list(proportion(float(np.sum(values)), len(values)))


if __name__ == "__main__":
    main()
