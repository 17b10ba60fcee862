"""Are answers right, by a check and not by likeness? One at a time, by majority, and the best of several.

Knows held-out questions, the answers to them and a check; not how they were come by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from maquette.data.checks import check_of, graded
from maquette.data.questions import Questions
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence, replied
from maquette.metrics.intervals import mean, proportion

TRIES, ASKED = 8, 500  # answers to each question; questions
MEANINGS = {
    "solved": "Share of answers to held-out questions that a rule finds right, as the sampler draws them: one answer a question, "
    "the mean of several such shares.",
    "solved by majority": "Share of questions whose most frequent answer of several is right: what agreeing with oneself is "
    "worth (Wang 2022, arXiv:2203.11171).",
    "gained by majority": "How much more often the most frequent answer of several is right than one of them, question by "
    "question: a paired difference, so that its interval leaves out how hard questions are.",
    "solved by the best": "Share of questions of which one answer of several is right: what a check at hand would find.",
    "thinking": "Symbols of an answer: how long it thinks.",
}


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if not isinstance(evidence.data.held, Questions):
        return "the data's answers cannot be checked"
    if check_of(evidence.data.held.check).executes and not evidence.executes:
        return "generated code is run only where that is allowed: --allow-code-exec"
    return "" if len(evidence.data.held) else "no row is held out"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Shares with Wilson's interval over questions, each of which is answered eight times; a normal one of what is no share."""
    held, system = evidence.data.held, evidence.system
    assert isinstance(held, Questions) and system is not None
    places = np.random.default_rng(evidence.seed).permutation(len(held))[:ASKED].tolist()
    rows, check = [held.fields(i) for i in places], check_of(held.check)
    rounds = [[said for *_, said in replied(system, held, places, evidence.seed + i)] for i in range(TRIES)]
    right = np.array([graded(check, rows, said).numpy() for said in rounds])  # [tries, questions]
    chosen = [voted([check.answer(said) for said in each], each) for each in zip(*rounds, strict=True)]
    agreed = graded(check, rows, chosen).numpy()
    found = {
        "solved": right.mean(0),
        f"solved by majority of {TRIES}": agreed,
        f"gained by majority of {TRIES}": agreed - right.mean(0),
        f"solved by the best of {TRIES}": right.max(0),
        "thinking": np.array([[len(said) for said in each] for each in rounds]).mean(0),
    }

    def figure(name: str, values: np.ndarray) -> Estimate:
        n, share = len(values), name.startswith("solved")
        options = (("check", held.check), ("tries", str(TRIES)), ("interval", "Wilson" if share else "normal"))
        interval = proportion(float(values.sum()), n) if share else mean(values)
        better: Any = "lower" if name == "thinking" else "higher"
        return evidence.estimate(name, interval, n, better=better, samples=right.size, options=options)

    return {name: figure(name, values) for name, values in found.items()}


def voted(votes: Sequence[str], replies: Sequence[str]) -> str:
    """The first of the answers that say what most do."""
    return replies[votes.index(Counter(votes).most_common(1)[0][0])]
