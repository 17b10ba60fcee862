"""Does seeing more examples of an unknown task help? Accuracy after 0, 1, ... of them, on tasks that training never saw.

Knows texts whose lines are question and answer, and a causal network; not what the tasks are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from maquette.contracts import IGNORE
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion

BATCH = 64
MEANINGS = {
    "accuracy at": "Share of answers that are right, all of their symbols the likeliest ones, after so many examples of a task "
    "that was never trained on: learning from what stands in the text alone.",
    "accuracy gained": "By how much that share is higher after the last example than after the first.",
}


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if not evidence.facts.asks:
        return "the data's texts are no tasks shown by examples"
    return "" if evidence.system.objective.bound == "exact" else "the system does not write from left to right"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """A figure per number of examples, and the rise from one to the most, paired by text."""
    right = answered(evidence)
    options = (("tasks", "held out"), ("answer", "greedy, whole"), ("interval", "Wilson"))
    found = {}
    for shots in range(right.shape[1]):
        name = f"accuracy at {shots} shots"
        found[name] = evidence.estimate(name, proportion(int(right[:, shots].sum()), len(right)), len(right), options=options)
    rise = right[:, -1].astype(float) - right[:, 1]
    name = f"accuracy gained from 1 to {right.shape[1] - 1} shots"
    found[name] = evidence.estimate(name, mean(rise), len(right), options=(*options[:2], ("interval", "normal")))
    return found


@torch.no_grad()
def answered(evidence: Evidence) -> np.ndarray:
    """bool[texts, examples]: whether the likeliest symbols are the answer, given all that stands before it.

    That every symbol of an answer is the likeliest after the true ones before is the same as that greedy decoding writes it.
    """
    system: Any = evidence.system
    system.eval()
    texts = [str(text) for text in evidence.held["text"]]
    net, found = system.steady("main"), []
    for at in range(0, len(texts), BATCH):
        some = texts[at : at + BATCH]
        code = system.encode({"text": some})
        before, target = system.objective.shift(code, {})
        hit = net(before).argmax(-1) == target
        for row, text, symbols in zip(hit, some, code, strict=True):
            found.append(_lines(row[: int((symbols != IGNORE).sum())], text, system.codec, evidence.facts.asks))
    return np.array(found)


def _lines(hit: torch.Tensor, text: str, codec: Any, asks: str) -> list[bool]:
    """For each line, whether every symbol of its answer was hit; symbols are placed by the text that they spell so far."""
    ends, spelt, right = [], "", []
    for symbol in codec.tokenize([text])[0]:
        spelt += codec.join([symbol])
        ends.append(len(spelt))
    start = 0
    for line in text.splitlines(keepends=True):
        first, last = start + line.index(asks) + len(asks), start + len(line.rstrip("\n"))
        right.append(all(bool(hit[i]) for i, end in enumerate(ends[: len(hit)]) if first < end <= last))
        start += len(line)
    return right
