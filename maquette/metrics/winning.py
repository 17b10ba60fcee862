"""Are a tuned system's answers better than the reference's, by a rule where there is one, and how far did it depart for that?

Knows pairs of answers, the rules of built-in data, and an objective that knows its reference.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maquette.contracts import Departing, Judging, Turns
from maquette.data.comparisons import Comparisons, judged
from maquette.data.conversations import answered, opening, questions, replies
from maquette.data.manners import RULES
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion

if TYPE_CHECKING:
    from maquette.system import System

MOST = 200  # questions
BATCH = 32
OWN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical": 1.0}  # a system's own distribution
MEANINGS = {
    "win rate": "Share of held-out questions whose answer the rule of these data likes more than the reference's to the same "
    "question, ties counting half: .5 is no better. Both are drawn from their own distributions.",
    "rule score": "What the rule finds the answers worth, on average.",
    "gamed": "Share of questions whose answer the system's own reward puts above the reference's and the rule below: it rises "
    "when the reward is gamed.",
    "reward gained": "What the system's own reward, of dpo its log-ratio and else a judge's, finds its answers worth more than "
    "the reference's. Where it rises and the rule score does not, it is gamed.",
    "KL to reference": "How far the system departed, in nats an answer: the mean of log p over the reference's p of its own "
    "answers. What is won should be read beside what it cost.",
}


def applies(evidence: Evidence) -> str:
    system = evidence.system
    if system is None:
        return "only samples are known, no system"
    if not isinstance(evidence.data.held, Comparisons):
        return "the data are no pairs of answers"
    if system.sampler is None or "reference" not in system.roles() or not _weighs(system.objective.voice):
        return "the system has no reference that it departed from"
    return ""


def _weighs(own: Any) -> bool:
    return isinstance(own, Departing) and isinstance(own, Judging)


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Of at most 200 held-out questions, each once; intervals over them."""
    assert evidence.system is not None and isinstance(evidence.data.held, Comparisons)
    system, held = evidence.system.eval(), evidence.data.held
    asked = list({str(turns): turns for turns in questions(held.talks)[0]}.values())
    places = np.random.default_rng(evidence.seed).permutation(len(asked))[:MOST].tolist()
    asked = [asked[i] for i in places]
    own, before = (answers(one, held, asked, evidence.seed) for one in (system, system.instead("reference")))
    (far, worths), (_, others) = (weighed(system, held, asked, said) for said in (own, before))
    n = len(asked)

    def figure(name: str, values: np.ndarray, better: Any, share: bool = False) -> Estimate:
        interval = proportion(float(values.sum()), n) if share else mean(values)
        options = (("interval", "Wilson" if share else "normal"), ("precision", evidence.precision))
        return evidence.estimate(name, interval, n, better=better, samples=n, rows=n, options=options)

    found = {
        "KL to reference": figure("KL to reference", far, "lower"),
        "reward gained": figure("reward gained", worths - others, "higher"),
    }
    rule = RULES.get(evidence.facts.name)
    if rule is not None:
        said = [str(turns[-1]["content"]) for turns in asked]
        worth = [np.array([rule(one, text) for one, text in zip(said, each, strict=True)]) for each in (own, before)]
        found["win rate"] = figure("win rate", (np.sign(worth[0] - worth[1]) + 1) / 2, "higher", share=True)
        found["rule score"] = figure("rule score", worth[0], "higher")
        found["gamed"] = figure("gamed", ((worths > others) & (worth[0] < worth[1])).astype(float), "lower", share=True)
    return found


def answers(system: System, held: Comparisons, asked: list[Turns], seed: int) -> list[str]:
    """What a system answers, drawn from its own distribution."""
    sampler: Any = system.sampler
    plain = replace(sampler, **{f.name: OWN[f.name] for f in fields(sampler) if f.name in OWN})
    start = opening(held.codec, asked, most=system.codec.length)
    made = system.sample(len(start), start=start.to(system.device), seed=seed, sampler=plain)
    return replies(held.codec, made["code"], start)


@torch.no_grad()
def weighed(system: System, held: Comparisons, asked: list[Turns], said: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """log p of each answer over that under the reference, and what the system's own reward finds it worth: float64[n] each."""
    talks: list[Turns] = [[*turns, answered("", text)[1]] for turns, text in zip(asked, said, strict=True)]
    own: Any = system.objective.voice
    found = []
    for at in range(0, len(talks), BATCH):
        batch = judged(held.codec, talks[at : at + BATCH])
        ratio, _ = own.log_ratios(system, batch)
        found.append(torch.stack([ratio[:, 0], own.worth(system, batch)[:, 0].to(ratio)]).double().cpu().numpy())
    ratios, worths = np.concatenate(found, 1)
    return ratios, worths
