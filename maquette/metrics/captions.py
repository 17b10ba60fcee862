"""Do captions written of held-out pictures say what the rows' own captions say? Word for word, and factor by factor.

Knows words, and by which of them the data tell a factor's values; for systems that write of pictures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import torch

from maquette.contracts import Batch
from maquette.metrics.adherence import MOST
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion
from maquette.metrics.nats import score_of, spread

MEANINGS = {
    "caption": "Share of held-out pictures whose written caption is their own, word for word.",
    "caption, all factors": "Share of written captions that say of every factor what the row's own caption says.",
    "caption, ": "Share of written captions that say this one factor as the row's own caption does.",
    "bits/caption": "Bits that a held-out caption costs, its picture known, spelling and end included.",
}


def applies(evidence: Evidence) -> str:
    system = evidence.system
    if system is None or system.codec.field != "text" or system.conditioner is None or "image" not in system.conditioner.fields:
        return "the system writes no captions"
    return "" if "text" in evidence.data.held.columns else "the data have no captions"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Shares with Wilson's interval over the pictures, and the mean of exact bits."""
    assert evidence.system is not None
    rows = spread(evidence.held, MOST)
    own = list(rows["text"])
    written = evidence.system.sample(len(own), about={"image": rows["image"]}, seed=evidence.seed)["text"]
    found = {"caption": [one == other for one, other in zip(written, own, strict=True)], **agreement(written, own, evidence)}

    def share(name: str, right: Sequence[bool]) -> Estimate:
        options = (("interval", "Wilson"),)
        return evidence.estimate(
            name, proportion(sum(right), len(right)), len(right), better="higher", samples=len(right), options=options
        )

    figures = {name: share(name, right) for name, right in found.items()}
    return figures | _bits(evidence, rows)


def agreement(written: Sequence[str], own: Sequence[str], evidence: Evidence) -> dict[str, list[bool]]:
    """For each factor of the data, and for all, which written captions say what the rows' own do; {} where none are known."""
    factors = evidence.facts.factors
    each = {
        f"caption, {name}": [said(one, values) == said(other, values) for one, other in zip(written, own, strict=True)]
        for name, values in factors.items()
    }
    return {"caption, all factors": [all(right) for right in zip(*each.values(), strict=True)], **each} if factors else {}


def said(caption: str, values: Sequence[str]) -> frozenset[str]:
    """Which of a factor's values a caption names, as whole words."""
    return frozenset(value for value in values if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", caption))


def _bits(evidence: Evidence, rows: Batch) -> dict[str, Estimate]:
    """The mean cost of a caption, where the objective has an exact likelihood."""
    assert evidence.system is not None
    objective = evidence.system.objective
    if objective.bound != "exact":
        return {}
    with torch.no_grad():
        nats = score_of(evidence, objective.score, rows, 1)
    each = np.asarray(nats.double().cpu()) / math.log(2)
    options = (("bound", objective.bound), ("precision", evidence.precision), ("interval", "normal"))
    return {"bits/caption": evidence.estimate("bits/caption", mean(each), len(each), rows=len(each), options=options)}
