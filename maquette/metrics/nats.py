"""How many bits does a held-out image cost? Bits per dimension: exact, or the bound that the objective names.

Knows an objective's `score`, its optional `importance`, and a conditioner's `every`. Knows no family.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maquette.contracts import Batch
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean
from maquette.streams import Streams

BATCH = 128
DRAWS = 4  # of a random bound, averaged
IMPORTANCE = 100  # samples of the importance-weighted bound
MOST_ROWS = 500  # held-out rows of that bound, which costs as much as 100 of the others
MOST_VALUES = 64  # conditions to sum over exactly
MOST_SUMS = 10_000  # rows times conditions of such a sum
MEANINGS = {
    "bits/dim": "Bits per pixel and channel to transmit a held-out image, its label unknown. 'exact' is the likelihood itself; a "
    "bound (ELBO, IWAE, any-order ELBO) is at least as large as the truth, so figures under different bounds are not compared.",
    "bits/dim given": "The same when the receiver knows the label already.",
    "bits/dim IWAE": "The importance-weighted bound (Burda 2016), tighter than the ELBO.",
}
Score = Callable[[Any, Batch, Streams], Tensor | None]


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if not evidence.pictures:
        return "the data are not images"
    return "" if evidence.system.objective.bound else f"{type(evidence.system.objective).__name__} gives no likelihood"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Bits per dimension of the held-out rows: without the condition, given it, and both under IWAE where there is one."""
    assert evidence.system is not None
    objective = evidence.system.objective
    found = bits(evidence, objective.score, objective.bound, "bits/dim", 1 if objective.bound == "exact" else DRAWS)
    importance = getattr(type(objective), "importance", None)  # an optional capability: (system, batch, rng, samples) -> nats [B]
    if importance is not None:

        def tighter(system: Any, batch: Batch, rng: Streams) -> Tensor:
            return importance(objective, system, batch, rng, IMPORTANCE)

        found |= bits(evidence, tighter, f"IWAE-{IMPORTANCE}", f"bits/dim IWAE-{IMPORTANCE}", 1, MOST_ROWS)
    return found


def bits(evidence: Evidence, score: Score, bound: str, name: str, draws: int, most: int = 0) -> dict[str, Estimate]:
    """The figures of one bound: `name`, and where something conditions the system also `name` given it.

    most: held-out rows to judge by, evenly spread over all of them; 0 = all.
    """
    assert evidence.system is not None
    conditioner, held = evidence.system.conditioner, evidence.held
    held = spread(held, most) if most else held
    scale = math.log(2) * math.prod(evidence.facts.shape)

    def figure(label: str, nats: Tensor, how: str) -> Estimate:
        options = (("bound", bound), ("condition", how), ("precision", evidence.precision), ("interval", "normal"))
        return evidence.estimate(label, mean(nats.double().cpu().numpy() / scale), len(nats), rows=len(nats), options=options)

    fields = () if conditioner is None else conditioner.fields
    if not fields:
        return {name: figure(name, score_of(evidence, score, held, draws), "none")}
    given = score_of(evidence, score, held, draws)
    what = f"{name} given {' and '.join(fields)}"
    found = {what: figure(what, given, "given")}
    assert conditioner is not None
    values = conditioner.every()
    if values and bound == "exact" and len(values) <= MOST_VALUES:
        some = spread(held, MOST_SUMS // len(values))
        rows = len(next(iter(some.values())))
        each = [score_of(evidence, score, {**some, **repeat(value, rows)}, draws) for value, _ in values]
        return {name: figure(name, mixture(each, [log for _, log in values]), "summed out")} | found
    if values:
        return {name: figure(name, given - log_chance(values, held), "sent first")} | found
    return found


def spread(batch: Batch, most: int) -> Batch:
    """At most `most` rows of a batch, evenly spread over all of them."""
    rows = len(next(iter(batch.values())))
    if rows <= most:
        return batch
    some = torch.arange(most) * rows // most
    return {k: v[some] if isinstance(v, Tensor) else [v[i] for i in some.tolist()] for k, v in batch.items()}


def mixture(nats: list[Tensor], logs: list[float]) -> Tensor:
    """-log sum_y p(y) p(x | y), from nats [B] and the log-probability of each y: [B]. Exact when the nats are."""
    weights = [log - part.double() for part, log in zip(nats, logs, strict=True)]
    return -torch.logsumexp(torch.stack(weights), 0)


def log_chance(values: list[tuple[Batch, float]], held: Batch) -> Tensor:
    """log p(y) of each held-out row's own condition [B]; -log p(x, y) is never below -log p(x).

    Used for bounds that are estimated at random, because noise inside a log-sum-exp over y would flatter them.
    """
    total = torch.full((len(next(iter(held.values()))),), -math.inf, dtype=torch.float64)
    for value, log in values:
        same = torch.ones(len(total), dtype=torch.bool)
        for name, wanted in value.items():
            same &= (held[name].cpu() == wanted.cpu()).reshape(len(total), -1).all(1)
        total[same] = log
    return total


def repeat(value: Batch, rows: int) -> Batch:
    """A batch of one row as a batch of many equal ones."""
    return {k: v.expand(rows, *v.shape[1:]) if isinstance(v, Tensor) else list(v) * rows for k, v in value.items()}


@torch.no_grad()
def score_of(evidence: Evidence, score: Score, batch: Batch, draws: int) -> Tensor:
    """Nats of every row of a batch, the mean over `draws`: float64[N]. A row's noise depends on the seed and its place only."""
    system = evidence.system
    assert system is not None
    system.eval()
    rows = len(next(iter(batch.values())))
    total = np.zeros(rows)
    streams = Streams.of(evidence.seed, rows, device=system.device)
    for draw in range(draws):
        rng = streams.fork(draw)
        for at in range(0, rows, BATCH):
            part = slice(at, min(rows, at + BATCH))
            nats = score(system, {name: column[part] for name, column in batch.items()}, rng[part])
            assert nats is not None, "an objective with a bound gives a score"
            total[part] += nats.double().cpu().numpy() / draws
    return torch.from_numpy(total)
