"""The best of eight answers by a verifier that was learnt, beside one answer, the majority, and what a check at hand would pick.

    python benchmarks/verifier.py RUN [RUN ...] [--questions 1500] [--budget 120s] [--keep FOLDER]

Runs of reasoner that are often wrong, such as starts that benchmarks/reasoning.py keeps. Each answers training questions eight
times; pairs of a right and a wrong answer to one question teach a verifier (reward --run RUN --rank 0), which never sees the
check again. Then 500 held-out questions are answered eight times, and of each the answer is taken that the verifier finds worth
most. Differences are question by question. One thread; losses included. Writes benchmarks/DATE-verifier-DATA.md and .json.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import side_by_side

from maquette.contracts import Judging, Turns
from maquette.data.checks import check_of, graded
from maquette.data.comparisons import judged
from maquette.data.conversations import answered
from maquette.data.questions import Questions
from maquette.loading import load
from maquette.metrics.evidence import replied
from maquette.metrics.intervals import mean
from maquette.metrics.solved import voted
from maquette.opened import Loaded
from maquette.runs import versions

HERE = Path(__file__).parent
ASKED, TRIES, BATCH = 500, 8, 128


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("runs", nargs="+", type=Path)
    asked.add_argument("--questions", type=int, default=1500)
    asked.add_argument("--budget", default="120s")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-verifier-"))
    found: dict[str, dict[str, Any]] = {}
    for place in given.runs:
        own = load(place, device="cpu")
        judge = folder / f"verifier-{place.name}"
        rows = taught(own, given.questions, folder / f"{place.name}.jsonl")
        if not (judge / "README.md").exists():
            words = ["train", "reward", "--run", str(place), "--data", str(folder / f"{place.name}.jsonl"), "--rank", "0"]
            words += ["--budget", given.budget, "--threads", "1", "--out", str(judge), "-q"]
            subprocess.run([sys.executable, "-m", "maquette", *words], check=True)
        verifier = load(judge, device="cpu")
        told = {"commit": verifier.trained.record["versions"]["git"][:8], "pairs": rows, "seconds": verifier.progress.seconds}
        found[place.name] = told | compared(own, verifier)
    data = own.facts.name
    lines = [
        f"# The best of {TRIES} by a verifier that was learnt, {date.today()}",
        "",
        f"`{data}`, {ASKED} held-out questions, answers at temperature 1; the verifier saw right and wrong answers to training",
        f"questions. One thread. Made by `python benchmarks/verifier.py`, torch {versions()['torch']}.",
        "",
        *side_by_side(found),
    ]
    path = HERE / f"{date.today()}-verifier-{data}.md"
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def answers(own: Loaded, held: Questions, places: list[int]) -> tuple[list[list[str]], np.ndarray]:
    """A run's answers [tries][questions], and which are right, float[tries, questions]."""
    rows = [held.fields(i) for i in places]
    said = [[text for *_, text in replied(own.system, held, places, seed)] for seed in range(TRIES)]
    return said, np.array([graded(check_of(held.check), rows, each).numpy() for each in said])


def taught(own: Loaded, questions: int, path: Path) -> int:
    """Write pairs of a right and a wrong answer to training questions, two of a question at most; how many there are."""
    train = own.data.train
    assert isinstance(train, Questions)
    places = np.random.default_rng(0).permutation(len(train))[:questions].tolist()
    said, right = answers(own, train, places)
    rng, pairs = random.Random(0), list[dict[str, Any]]()
    for i, place in enumerate(places):
        good, bad = (
            sorted({each[i] for each, ok in zip(said, right[:, i], strict=True) if bool(ok) is want}) for want in (True, False)
        )
        rng.shuffle(bad)
        asked = train.fields(place)["source"]
        pairs += [{"prompt": asked, "chosen": rng.choice(good), "rejected": worse} for worse in bad[:2] if good]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return len(pairs)


def compared(own: Loaded, verifier: Loaded) -> dict[str, Any]:
    """How many held-out questions are solved, by each way to pick one of eight answers."""
    held, check = own.data.held, check_of(own.data.held.check)  # type: ignore[attr-defined]
    assert isinstance(held, Questions)
    places = np.random.default_rng(0).permutation(len(held))[:ASKED].tolist()
    said, right = answers(own, held, places)
    rows = [held.fields(i) for i in places]
    worths = np.array([worth(verifier, [str(row["source"]) for row in rows], each) for each in said])
    by_verifier = right[worths.argmax(0), np.arange(len(places))]
    agreed = [voted([check.answer(text) for text in each], each) for each in zip(*said, strict=True)]
    by_majority, one = graded(check, rows, agreed).numpy(), right.mean(0)
    weighed = graded(
        check, rows, [elected(each, w, check.answer) for each, w in zip(zip(*said, strict=True), worths.T, strict=True)]
    )
    figures = {
        "one answer": one,
        f"majority of {TRIES}": by_majority,
        f"best of {TRIES} by the verifier": by_verifier,
        f"votes of {TRIES} weighed by the verifier": weighed.numpy(),
        f"best of {TRIES} by the check": right.max(0),
        "verifier over one answer": by_verifier - one,
        "majority over one answer": by_majority - one,
        "verifier over majority": by_verifier - by_majority,
    }
    return {name: list(mean(np.asarray(values, dtype=np.float64))) for name, values in figures.items()}


def elected(replies: Sequence[str], worths: np.ndarray, answer: Any) -> str:
    """The reply whose answer has the most worth together, each reply's worth as a share of all (Cobbe 2021; Li 2023)."""
    shares = np.exp(worths - worths.max())
    held: dict[str, float] = {}
    for reply, share in zip(replies, shares, strict=True):
        held[answer(reply)] = held.get(answer(reply), 0.0) + float(share)
    best = max(held, key=lambda said: held[said])
    return next(reply for reply in replies if answer(reply) == best)


@torch.no_grad()
def worth(verifier: Loaded, asked: list[str], said: list[str]) -> np.ndarray:
    """What the verifier finds each answer worth, float[n]."""
    objective, codec = verifier.system.objective, verifier.system.codec
    assert isinstance(objective, Judging)
    talks: list[Turns] = [answered(question, reply) for question, reply in zip(asked, said, strict=True)]
    parts = [judged(codec, talks[at : at + BATCH]) for at in range(0, len(talks), BATCH)]  # type: ignore[arg-type]
    return torch.cat([objective.worth(verifier.system, part)[:, 0].float() for part in parts]).numpy()


if __name__ == "__main__":
    main()
