"""Does knowing what follows help to write a line? Held-out lines, filled in between their neighbours and continued without.

Knows causal systems of texts with holes, and documents; not what they are about.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from maquette.contracts import IGNORE
from maquette.data.infilling import lines_of
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion

LINES, ROOM = 200, 48  # lines that are asked for; symbols of one at most
MEANINGS = {
    "lines infilled": "Share of held-out lines that are written just as they were, but for white space at their ends, by a "
    "model that sees what stands before and after; the likeliest symbols, one after another.",
    "lines continued": "The same where it sees only what stands before.",
    "lines gained": "By how much the first share is above the second, line by line: what seeing the rest is worth.",
}


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if not getattr(evidence.system.codec, "holed", False):
        return "the system knows no texts with holes"
    return "" if "text" in evidence.data.held.columns else "no texts are held out"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Both shares with Wilson's interval, and their difference with a normal one over the lines, which are the same."""
    texts = [str(text) for text in evidence.data.held.columns["text"]]
    rng = random.Random(evidence.seed)
    rng.shuffle(texts)
    texts = texts * -(-LINES // len(texts))  # of few long ones, several lines each
    asked = list(dict.fromkeys(lines_of(texts[:LINES], rng)))
    said = [line.strip() for _, line, _ in asked]
    filled, alone = ([a == b for a, b in zip(written(evidence.system, asked, how), said, strict=True)] for how in (True, False))
    n, options = len(asked), (("lines", "held out, without white space at their ends"), ("drawn", f"greedy, {ROOM} symbols"))
    figures = {}
    for name, right in {"lines infilled": filled, "lines continued": alone}.items():
        told = (*options, ("interval", "Wilson"))
        figures[name] = evidence.estimate(name, proportion(sum(right), n), n, better="higher", rows=n, options=told)
    gain = mean(np.array(filled, float) - np.array(alone, float))
    told = (*options, ("interval", "normal, paired"))
    return {**figures, "lines gained": evidence.estimate("lines gained", gain, n, better="higher", rows=n, options=told)}


@torch.no_grad()
def written(system: Any, asked: list[tuple[str, str, str]], filled: bool) -> list[str]:
    """What the system writes in place of each line, with what follows it known, or not: the first line of that, without white
    space at its ends.

    Of what does not fit into the context, the nearest is seen.
    """
    codec = system.codec
    most = codec.length - min(ROOM, codec.length // 3)
    seen = [before.rstrip() for before, _, _ in asked]  # a text is not cut behind white space
    if filled:
        rows = [codec.around(before, after, most) for before, (_, _, after) in zip(seen, asked, strict=True)]
    else:
        rows = [row[-most:] for row in codec.tokenize(seen)]
    width = min(codec.length, max(map(len, rows)) + ROOM)
    start = torch.full((len(rows), width), IGNORE, dtype=torch.int64)
    for place, row in enumerate(rows):
        start[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
    sampler = replace(system.sampler, temperature=0.0, length=width)
    code = system.sample(len(rows), start=start.to(system.device), sampler=sampler)["code"]
    texts = [codec.decode(symbols[None, len(row) :])[0] for symbols, row in zip(code, rows, strict=True)]
    return [(text.strip().splitlines() or [""])[0].strip() for text in texts]
