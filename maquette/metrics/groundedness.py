"""Do answers say what is so? With what the system calls for and without; and what is gained by keeping the best of several.

Knows held-out questions whose answers a rule can rate, and that a sampler may draw several and call for tools; not how.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from maquette.data.dialogues import RULES
from maquette.data.ratings import Rated
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence, replied
from maquette.metrics.intervals import mean, proportion

ASKED = 150  # questions
MEANINGS = {
    "grounded": "Share of answers about numbers whose number is right, as the sampler draws them, what they call for worked out.",
    "grounded without tools": "The same where the network itself writes what a calculator would.",
    "gained by tools": "The difference of the two, question by question.",
    "sensible": "Share of answers that answer what was asked, by the rule in the place of people's ratings.",
    "specific": "Share of answers that name what was asked about.",
    "interesting": "Share of answers that say more than was asked.",
    "safe": "Share of answers that are not rude and tell nobody's home.",
    **{
        f"{name} of the first": f"How {name} the first answer drawn is, which nobody chose: what ranking is measured against."
        for name in ("sensible", "specific", "interesting", "safe")
    },
}


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if not isinstance(evidence.data.held, Rated) or evidence.facts.name not in RULES:
        return "the data have no answers that a rule can rate"
    sampler: Any = evidence.system.sampler
    if not hasattr(sampler, "worth") or not sampler.own.rules.tools:
        return "the system calls for nothing, or keeps the first answer that it draws"
    return ""


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Shares with Wilson's intervals over questions; what is gained with normal ones, of differences question by question."""
    system, held = evidence.system, evidence.data.held
    assert system is not None and isinstance(held, Rated)
    rates, truth = RULES[evidence.facts.name]
    sampler: Any = system.sampler
    bare = replace(sampler, own=replace(sampler.own, rules=replace(sampler.own.rules, tools="")))
    places = np.random.default_rng(evidence.seed).permutation(len(held.talks))[:ASKED].tolist()
    kept, alone, first = (replied(system, held, places, evidence.seed, how) for how in (sampler, bare, sampler.own))
    found: dict[str, Estimate] = {}

    def figure(name: str, values: list[bool] | np.ndarray, share: bool = True) -> None:
        n, each = len(values), np.asarray(values, float)
        interval = proportion(int(each.sum()), n) if share else mean(each)
        options = (("answers", str(sampler.of)), ("interval", "Wilson" if share else "normal"))
        found[name] = evidence.estimate(name, interval, n, better="higher", samples=n, rows=n, options=options)

    right = [[truth(asked, said) for asked, _, said in each] for each in (kept, alone)]
    pairs = np.array([pair for pair in zip(*right, strict=True) if None not in pair], float)
    figure("grounded", pairs[:, 0])
    figure("grounded without tools", pairs[:, 1])
    figure("gained by tools", pairs[:, 0] - pairs[:, 1], share=False)
    for part, each in (("", kept), (" of the first", first)):
        ratings = [rates(asked, said) for asked, _, said in each]
        for quality in held.qualities:
            figure(f"{quality}{part}", [rated[quality] for rated in ratings])
    return found
