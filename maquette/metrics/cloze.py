"""How many hidden words of held-out text are guessed? Whole words, several hidden at once, each by its surroundings.

Knows a process that fills in what is hidden, and how a tokenizer spells; no network.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from maquette.contracts import IGNORE
from maquette.data import Windows
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean
from maquette.processes.masked import Filling

SHARE, MOST, BATCH = 0.15, 400, 16
MEANINGS = {
    "masked words": f"Share of whole words guessed right where {SHARE:.0%} of a window's words are hidden together; how many "
    "symbols a word has is shown. The likeliest word after the two on each side, by counts, is a floor: docs/LOG.md.",
}


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if evidence.facts.field != "text":
        return "the data are not text"
    if not isinstance(evidence.data.held, Windows):
        return "rows are whole texts, not windows of one stream"
    filling = isinstance(getattr(evidence.system.objective, "process", None), Filling)
    return "" if filling else "the system does not fill in what is hidden"


@torch.no_grad()
def measure(evidence: Evidence) -> dict[str, Estimate]:
    """The share of hidden words of which every symbol is the likeliest; the interval is over windows."""
    system, held = evidence.system, evidence.data.held
    assert system is not None
    system.eval()
    some = torch.from_numpy(np.unique(np.linspace(0, len(held) - 1, min(MOST, len(held))).astype(np.int64)))
    rng = np.random.default_rng(evidence.seed)
    process, net = system.objective.process, system.steady("main")  # type: ignore[union-attr]
    right, asked = [], []
    for part in some.split(BATCH):
        code = system.encode(held.rows(part))
        spans = [words(row, system.codec) for row in code.tolist()]
        chosen = [[span for span in row if rng.random() < SHARE] for row in spans]
        hidden = code.clone()
        for row, gone in zip(hidden, chosen, strict=True):
            for first, last in gone:
                row[first:last] = IGNORE
        hit = process.fill(net, hidden).argmax(-1) == code  # type: ignore[operator, union-attr]
        right += [sum(bool(row[a:b].all()) for a, b in gone) for row, gone in zip(hit, chosen, strict=True)]
        asked += [len(gone) for gone in chosen]
    each = np.array(right) / (np.mean(asked) or math.nan)  # a ratio of sums, its spread over windows
    value, low, high = mean(each)
    options = (("hidden", f"{SHARE:g} of the words"), ("windows", str(len(asked))), ("interval", "normal over windows"))
    found = evidence.estimate("masked words", (value, max(0.0, low), min(1.0, high)), sum(asked), options=options)
    return {"masked words": found}


def words(symbols: list[int], codec: Any) -> list[tuple[int, int]]:
    """Where words of letters stand among symbols, as (first, beyond the last): a space before the first letter is its own."""
    found: list[tuple[int, int]] = []
    inside = False
    for place, symbol in enumerate(symbols):
        spelt = codec.join([symbol])
        letters = bool(spelt.strip()) and spelt.strip(" ").replace("_", "a").isalpha()
        if letters and inside and not spelt.startswith(" "):
            found[-1] = (found[-1][0], place + 1)
        elif letters:
            found.append((place, place + 1))
        inside = letters
    return found
