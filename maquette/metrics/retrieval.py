"""Does what belongs together find itself - pictures and captions, or texts and their sources - and classes their names?

Knows unit vectors of the two sides that a system compares, and what the data say of classes. What finds need not be a system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.contracts import Batch, Comparing
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import proportion

AMONG = {100: (1,), 1000: (1, 10)}  # how many a row's own is among -> within how many of the closest it counts as found
PART = 256  # rows that are embedded together
PROMPTS = 64  # captions at most that name a class, averaged
MEANINGS = {
    "retrieval@1 of 100": "Share of held-out rows whose own counterpart is the closest of 100 (a caption's picture, a question's "
    "answer); chance is .01.",
    "retrieval@1 of 1000": "Share of held-out rows whose own counterpart is the closest of 1,000; chance is .001.",
    "retrieval@10 of 1000": "Share of held-out rows whose own counterpart is among the ten closest of 1,000; chance is .01.",
    "zero-shot": "Share of held-out pictures closest to the name of their own class; chance is 1 / the number of classes.",
    "zero-shot, captions": "The same, a class told by the mean of training captions that name it (Radford 2021, sec. 3.1.4).",
}
Near = Callable[
    [str, str, Tensor], Tensor
]  # (asked, kept, rows int64[n]) -> how near each row's one side is to each's other, [n,n]


def applies(evidence: Evidence) -> str:
    system = evidence.system
    if system is None or not isinstance(system.objective, Comparing):
        return "the system compares nothing with anything"
    sides, columns = system.objective.sides, evidence.data.held.columns
    if "image" in sides and not evidence.pictures:
        return f"the system compares {' with '.join(sides)}, and the data are no pictures"
    if missing := [side for side in sides if side not in columns]:
        return f"the data have no {' and no '.join(missing)} to compare"
    texts, least = _texts(evidence, sides), min(AMONG)
    differ = len(apart(texts, range(len(texts[0]))))
    return "" if differ >= least else f"{least} held-out rows that differ are needed, and there are {differ}"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Shares with Wilson's interval over the rows."""
    system = evidence.system
    assert system is not None and isinstance(system.objective, Comparing)
    objective, sides = system.eval().objective, system.objective.sides

    def embed(batch: Batch) -> dict[str, Tensor]:
        assert isinstance(objective, Comparing)
        return {name: each.cpu() for name, each in objective.embed(system, batch).items()}

    held = evidence.held
    parts = [embed({side: held[side][at : at + PART] for side in sides}) for at in range(0, len(held["text"]), PART)]
    vectors = {side: torch.cat([part[side] for part in parts]) for side in sides}
    found = retrieval(evidence, sides, lambda asked, kept, rows: vectors[asked][rows] @ vectors[kept][rows].T)
    if "image" in sides and evidence.labelled and "label" in held:
        for name, classes in named(evidence, lambda prompts: embed({"text": prompts})["text"]).items():
            found[name] = _share(evidence, name, (vectors["image"] @ classes.T).argmax(1) == held["label"], len(classes))
    return found


def retrieval(evidence: Evidence, sides: Sequence[str], near: Near) -> dict[str, Estimate]:
    """Both directions' figures of whatever says how near things are, a system or not: "retrieval@1 of 100, text to image"."""
    found, texts = {}, _texts(evidence, sides)
    for size, within in AMONG.items():
        groups = grouped(texts, size, evidence.seed)
        for asked, kept in (sides, tuple(reversed(sides))) if len(groups) else ():
            before = torch.cat([nearer(near(asked, kept, rows)) for rows in groups])
            for most in within:
                name = f"retrieval@{most} of {size}, {asked} to {kept}"
                found[name] = _share(evidence, name, before < most, size, most)
    return found


def _share(evidence: Evidence, name: str, right: Tensor, among: int, within: int = 1) -> Estimate:
    options = (("among", str(among)), ("chance", f"{within / among:.4g}"), ("interval", "Wilson"))
    interval = proportion(int(right.sum()), len(right))
    return evidence.estimate(name, interval, len(right), better="higher", rows=len(right), options=options)


def _texts(evidence: Evidence, sides: Sequence[str]) -> list[Sequence[str]]:
    """What held-out rows say on their sides that are texts: rows that say the same are never to be told from each other."""
    return [evidence.held[side] for side in sides if side != "image"]


def apart(texts: Sequence[Sequence[str]], rows: Iterable[int]) -> list[int]:
    """Of some rows, in order, those that say on every side what none before them did."""
    known: tuple[set[str], ...] = tuple(set() for _ in texts)
    kept = []
    for row in rows:
        if not any(side[row] in said for side, said in zip(texts, known, strict=True)):
            kept.append(row)
            for side, said in zip(texts, known, strict=True):
                said.add(side[row])
    return kept


def grouped(texts: Sequence[Sequence[str]], size: int, seed: int) -> Tensor:
    """Rows in groups, in a seeded order, each with texts that all differ: int64[G,size]. A row is in one group at most."""
    left: list[int] = np.random.default_rng(seed).permutation(len(texts[0])).tolist()
    first: dict[str, int] = {}
    for at, row in enumerate(left):
        first.setdefault(texts[0][row], at)
    groups: list[list[int]] = []
    while len(rows := apart(texts, left)) >= size:
        taken = set(rows)
        left = [row for row in left if row not in taken]
        rows.sort(key=lambda row: first[texts[0][row]])
        groups += [rows[at : at + size] for at in range(0, len(rows) - size + 1, size)]
    return torch.tensor(groups, dtype=torch.int64).view(-1, size)


def nearer(near: Tensor) -> Tensor:
    """How many others are as near to each row, or nearer, than its own, which stands on the diagonal of [n,n]: int64[n]."""
    return (near >= near.diagonal()[:, None]).sum(1) - 1


def named(evidence: Evidence, embed: Callable[[list[str]], Tensor]) -> dict[str, Tensor]:
    """Unit vectors [classes,P] of the names alone, and of training captions with that name in them, where all have some."""
    classes = list(evidence.facts.classes)
    found = {"zero-shot": embed(classes)}
    captions = list(dict.fromkeys(evidence.data.train.columns["text"]))
    naming = [[text for text in captions if f" {name.lower()} " in f" {text.lower()} "] for name in classes]
    if all(naming):
        some = [texts[:: -(-len(texts) // PROMPTS)] for texts in naming]
        found["zero-shot, captions"] = F.normalize(torch.stack([embed(texts).mean(0) for texts in some]), dim=1)
    return found
