"""The best of eight answers by verifiers that were learnt, beside one answer, the majority, and what a check at hand would pick.

    python benchmarks/verifier.py RUN [RUN ...] [--questions 6000] [--pairs 6] [--budget 150s] [--keep FOLDER]

Runs of reasoner that are often wrong, such as starts that benchmarks/reasoning.py keeps. Each answers training questions eight
times; pairs of a right and a wrong answer to one question teach two verifiers that begin as the run, and never see the check
again: a model of reward, which judges by an answer's last symbol, and DPO, whose worth is a sum over symbols (Rafailov 2023,
eq. 5). Then 500 held-out questions are answered eight times, and of each the answer is taken that a verifier finds worth most.
Differences are question by question. One thread; losses included. Writes benchmarks/DATE-verifier-DATA.md and .json.
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
WAYS = ("reward", "dpo")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("runs", nargs="+", type=Path)
    asked.add_argument("--questions", type=int, default=6000)
    asked.add_argument("--pairs", type=int, default=6, help="of one question at most")
    asked.add_argument("--budget", default="150s", help="of each verifier")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-verifier-"))
    found: dict[str, dict[str, Any]] = {}
    for place in given.runs:
        own = load(place, device="cpu")
        pairs = folder / f"{place.name}.jsonl"
        rows = taught(own, given.questions, given.pairs, pairs)
        verifiers = {way: learnt(way, place, pairs, given.budget, folder / f"{way}-{place.name}") for way in WAYS}
        found[place.name] = {"pairs": rows} | compared(own, verifiers)
    data = own.facts.name
    lines = [
        f"# The best of {TRIES} by a verifier that was learnt, {date.today()}",
        "",
        f"`{data}`, {ASKED} held-out questions, answers at temperature 1; verifiers saw right and wrong answers to training",
        f"questions. One thread. Made by `python benchmarks/verifier.py`, torch {versions()['torch']}.",
        "",
        *side_by_side(found),
    ]
    path = HERE / f"{date.today()}-verifier-{data}.md"
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def learnt(way: str, start: Path, pairs: Path, budget: str, place: Path) -> Loaded:
    """A verifier that begins as a run, and all of whose weights learn."""
    if not (place / "README.md").exists():
        words = ["train", way, "--run", str(start), "--data", str(pairs), "--rank", "0", "--budget", budget]
        subprocess.run([sys.executable, "-m", "maquette", *words, "--threads", "1", "--out", str(place), "-q"], check=True)
    return load(place, device="cpu")


def answers(own: Loaded, held: Questions, places: list[int]) -> tuple[list[list[str]], np.ndarray]:
    """A run's answers [tries][questions], and which are right, float[tries, questions]."""
    rows = [held.fields(i) for i in places]
    said = [[text for *_, text in replied(own.system, held, places, seed)] for seed in range(TRIES)]
    return said, np.array([graded(check_of(held.check), rows, each).numpy() for each in said])


def taught(own: Loaded, questions: int, most: int, path: Path) -> int:
    """Write pairs of a right and a wrong answer to training questions, `most` of a question; how many there are."""
    if path.exists():
        return len(path.read_text().splitlines())
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
        pairs += [{"prompt": asked, "chosen": rng.choice(good), "rejected": worse} for worse in bad[:most] if good]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return len(pairs)


def compared(own: Loaded, verifiers: dict[str, Loaded]) -> dict[str, Any]:
    """How many held-out questions are solved, by each way to pick one of eight answers."""
    held, check = own.data.held, check_of(own.data.held.check)  # type: ignore[attr-defined]
    assert isinstance(held, Questions)
    places = np.random.default_rng(0).permutation(len(held))[:ASKED].tolist()
    said, right = answers(own, held, places)
    rows = [held.fields(i) for i in places]
    asked, tried = [str(row["source"]) for row in rows], list(zip(*said, strict=True))
    majority = graded(check, rows, [voted([check.answer(text) for text in each], each) for each in tried]).numpy()
    one = right.mean(0)
    figures = {"one answer": one, f"majority of {TRIES}": majority, f"best of {TRIES} by the check": right.max(0)}
    figures["majority over one answer"] = majority - one
    told: dict[str, Any] = {}
    for way, verifier in verifiers.items():
        worths = np.array([worth(verifier, asked, each) for each in said])
        best = right[worths.argmax(0), np.arange(len(places))]
        weighed = [elected(each, some, check.answer) for each, some in zip(tried, worths.T, strict=True)]
        figures[f"best of {TRIES} by {way}"] = best
        figures[f"votes of {TRIES} weighed by {way}"] = graded(check, rows, weighed).numpy()
        figures[f"{way} over one answer"], figures[f"{way} over majority"] = best - one, best - majority
        told[f"commit of {way}"] = verifier.trained.record["versions"]["git"][:8]
        told[f"steps, seconds of {way}"] = f"{verifier.progress.step}, {verifier.progress.seconds:.0f}"
    return told | {name: list(mean(np.asarray(values, dtype=np.float64))) for name, values in figures.items()}


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
