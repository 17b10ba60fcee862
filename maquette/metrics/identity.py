"""Do samples that are told a new word show the one thing it was learnt from? Beside what the kind alone gives.

Knows captions, a feature network and the pictures; not how the word was learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from maquette.metrics import features
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import Interval, mean

if TYPE_CHECKING:
    from maquette.system import System

MOST = 100  # samples drawn under each caption
MEANINGS = {
    "identity": "Cosine of a sample told the new word with the pictures it was learnt from, in features about the point halfway "
    "to what was drawn for the kind alone, before: -1 is any of its kind, `identity (real)` is the thing itself.",
    "identity (base)": "The same of samples told the kind alone, by the model as it was before it was tuned: near -1.",
    "identity (kind)": "The same of samples told the kind alone by the tuned model; above the base's it forgot the others.",
    "identity (real)": "The same of the pictures themselves, each against the others.",
    "identity gain": "How much closer the word brings a sample than the kind alone did, from the same noise: paired.",
}


def applies(evidence: Evidence) -> str:
    conditioner = evidence.system.conditioner if evidence.system is not None else None
    if not evidence.facts.few or conditioner is None or "text" not in conditioner.fields:
        return "the data are not a few pictures of one thing"
    return ""


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Means with normal intervals over samples; the gain over pairs from one noise."""
    system, held = evidence.system, evidence.held
    assert system is not None
    before = system.instead("base") if "base" in system.roles() else system
    n, said, kind = min(MOST, evidence.n), held["text"][0], held["kind"][0]
    asked = ((before, kind, 0), (before, kind, 1), (system, kind, 0), (system, said, 0))
    drawn = [evidence.rounded(told(who, text, n, evidence.seed + more)) for who, text, more in asked]
    found = figures(*(features.apply(evidence.network, each) for each in (*drawn, held["image"])))
    return {name: _signed(evidence, name, each, len(held["image"]) if "real" in name else n) for name, each in found.items()}


def told(system: System, text: str, n: int, seed: int) -> Tensor:
    """Samples under one text: float[n,C,H,W] in 0..1, on the CPU."""
    return system.sample(n, about={"text": [text] * n}, seed=seed)["image"].cpu()


def figures(base: np.ndarray, others: np.ndarray, plain: np.ndarray, tuned: np.ndarray, own: np.ndarray) -> dict[str, Interval]:
    """Every figure from features [N,D] of samples, and of the pictures [P,D].

    Args:
        base, others: told the kind alone, before; others from another noise: one end of the way that features are taken on.
        plain, tuned: told the kind, and the word, after. From the noise that base came from.
    """
    apart = (own.mean(0) - others.mean(0)) / 2
    middle, spread = others.mean(0) + apart, np.sqrt((others.var(0) + own.var(0)) / 2 + apart**2) + 1e-6
    base, plain, tuned, own = ((each - middle) / spread for each in (base, plain, tuned, own))
    return {
        "identity": mean(closeness(tuned, own)),
        "identity (base)": mean(closeness(base, own)),
        "identity (kind)": mean(closeness(plain, own)),
        "identity (real)": mean(among(own)),
        "identity gain": mean(closeness(tuned, own) - closeness(base, own)),
    }


def closeness(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Cosine of each row [N,D] with the mean of the unit vectors of some others: float64[N]."""
    middle = unit(own).mean(0)
    return unit(rows) @ unit(middle[None])[0]


def among(own: np.ndarray) -> np.ndarray:
    """Closeness of each to the others."""
    return np.concatenate([closeness(own[i : i + 1], np.delete(own, i, 0)) for i in range(len(own))])


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _signed(evidence: Evidence, name: str, found: Interval, n: int) -> Estimate:
    better, rows = ("lower" if "kind" in name else "higher"), len(evidence.held["image"])
    options = (("interval", "normal"),)
    return evidence.estimate(name, found, n, better=better, samples=n, rows=rows, network=True, options=options)
