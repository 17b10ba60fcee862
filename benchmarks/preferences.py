"""What preferences are worth, by the rule that made them: a policy beside what it was, and a judge that is asked too often.

Of a trained run of dpo on `manners`: preference accuracy, win rate over its reference, KL, and the best of n answers of the
reference by the judge's reward, for growing n: where the judge's own figure rises and the rule's does not, the judge is gamed
(Gao 2022, arXiv:2210.10760). Without --judge, the policy's own reward judges. Writes benchmarks/DATE-preferences.md and .json.

    maquette train dpo --budget 120s --out RUN; python benchmarks/preferences.py RUN
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
from pathlib import Path
from typing import Any

import torch

import maquette
from maquette.contracts import Turns
from maquette.data.comparisons import Comparisons, judged
from maquette.data.conversations import answered, questions
from maquette.data.manners import rule
from maquette.metrics.winning import answers

HERE = Path(__file__).parent
FIGURES = ("preference accuracy", "win rate", "rule score", "gamed", "KL to reference")


@torch.no_grad()
def worths(judge: Any, asked: list[Turns], said: list[str]) -> list[float]:
    """What a judge finds each answer worth."""
    found: list[float] = []
    for at in range(0, len(asked), 64):
        some = slice(at, at + 64)
        talks: list[Turns] = [[*turns, answered("", text)[1]] for turns, text in zip(asked[some], said[some], strict=True)]
        found += judge.objective.worth(judge, judged(judge.codec, talks))[:, 0].tolist()
    return found


def best(worth: list[float], good: list[float], each: int, n: int) -> tuple[float, float]:
    """Mean worth by the judge and by the rule of the best of n of each question's answers; over all groups of n there are."""
    picked = []
    for at in range(0, len(worth), n):
        if at % each + n <= each:
            place = max(range(at, at + n), key=lambda i: worth[i])
            picked.append((worth[place], good[place]))
    return sum(w for w, _ in picked) / len(picked), sum(g for _, g in picked) / len(picked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--judge", default="")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()
    torch.set_num_threads(1)
    run = maquette.load(said.run, device="cpu")
    judge = maquette.load(said.judge, device="cpu") if said.judge else run
    told = maquette.evaluate(said.run, n=20, only=["preferred", "winning"], device="cpu", seed=said.seed)["metrics"]
    held = run.data.held
    assert isinstance(held, Comparisons)
    every = list({str(turns): turns for turns in questions(held.talks)[0]}.values())
    asked = [turns for turns in random.Random(said.seed).sample(every, said.questions) for _ in range(said.most)]
    written = answers(run.system.instead("reference"), held, asked, said.seed)
    worth = worths(judge.system, asked, written)
    good = [rule(str(turns[-1]["content"]), text) for turns, text in zip(asked, written, strict=True)]
    counts = [2**i for i in range(said.most.bit_length())]
    curve = {n: best(worth, good, said.most, n) for n in counts}
    top = sum(max(good[at : at + said.most]) for at in range(0, len(good), said.most)) / said.questions
    lines = [f"# What preferences are worth ({datetime.date.today()})", "", *(__doc__ or "").strip().splitlines()[2:5], ""]
    lines += ["| figure | value | 95 % |", "|---|---|---|"]
    lines += [f"| {k} | {told[k]['value']:.3f} | {told[k]['low']:.3f} .. {told[k]['high']:.3f} |" for k in FIGURES]
    lines += ["", "| best of n of the reference's | the judge's reward | the rule |", "|---|---|---|"]
    lines += [f"| {n} | {by:.3f} | {true:.3f} |" for n, (by, true) in curve.items()]
    steps, last = run.progress.step, run.trained.rows()[-1]
    lines += ["", f"The best of {said.most} by the rule itself is {top:.3f}. {said.questions} held-out questions; the judge is "
              f"{said.judge or 'the policy itself'}; {steps} steps, {last['seconds']:.0f} training seconds, last loss "
              f"{last['prefer/loss']:.3f}."]  # fmt: skip
    stem = HERE / f"{datetime.date.today()}-preferences"
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")
    kept = {"figures": {k: told[k] for k in FIGURES}, "best of": curve, "rule's best": top, "steps": steps, "last": last}
    stem.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
