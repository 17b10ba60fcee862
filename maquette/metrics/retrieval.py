"""Do pictures and captions find each other, and classes their names? For systems that put both into one space.

Knows unit vectors, and what the data say of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.contracts import Batch, Comparing
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import proportion

OF = 100  # to be found among: chance is 1 / OF
PROMPTS = 64  # captions at most that name a class, averaged
MEANINGS = {
    "retrieval@1 of 100, text to image": "Share of held-out captions whose own picture is the closest of 100; chance is .01.",
    "retrieval@1 of 100, image to text": "Share of held-out pictures whose own caption is the closest of 100; chance is .01.",
    "zero-shot": "Share of held-out pictures closest to the name of their own class; chance is 1 / the number of classes.",
    "zero-shot, captions": "The same, a class told by the mean of training captions that name it (Radford 2021, sec. 3.1.4).",
}


def applies(evidence: Evidence) -> str:
    if not evidence.pictures or evidence.system is None or not isinstance(evidence.system.objective, Comparing):
        return "the system does not compare pictures with captions"
    columns = evidence.data.held.columns
    if "text" not in columns:
        return "the data have no captions"
    distinct = len(set(columns["text"]))
    return "" if distinct >= OF else f"{OF} held-out captions that differ are needed, and there are {distinct}"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Shares with Wilson's interval over the rows."""
    system = evidence.system
    assert system is not None and isinstance(system.objective, Comparing)
    objective = system.eval().objective

    def embed(batch: Batch) -> dict[str, Tensor]:
        assert isinstance(objective, Comparing)
        return {name: each.cpu() for name, each in objective.embed(system, batch).items()}

    said = list(evidence.held["text"])
    parts = [embed({"image": image, "text": said[at : at + 256]}) for at, image in _parts(evidence.held["image"])]
    images, texts = (torch.cat([part[name] for part in parts]) for name in ("image", "text"))
    groups = hundreds(said, evidence.seed)

    def share(name: str, right: Tensor, among: int) -> Estimate:
        interval = proportion(int(right.sum()), len(right))
        options = (("among", str(among)), ("chance", f"{1 / among:.4g}"), ("interval", "Wilson"))
        return evidence.estimate(name, interval, len(right), better="higher", rows=len(right), options=options)

    found = {
        f"retrieval@1 of {OF}, text to image": share(f"retrieval@1 of {OF}, text to image", retrieved(texts, images, groups), OF),
        f"retrieval@1 of {OF}, image to text": share(f"retrieval@1 of {OF}, image to text", retrieved(images, texts, groups), OF),
    }
    if evidence.labelled and "label" in evidence.held:
        for name, classes in named(evidence, lambda prompts: embed({"text": prompts})["text"]).items():
            found[name] = share(name, (images @ classes.T).argmax(1) == evidence.held["label"], len(classes))
    return found


def _parts(images: Tensor, size: int = 256) -> list[tuple[int, Tensor]]:
    return [(at, images[at : at + size]) for at in range(0, len(images), size)]


def hundreds(texts: Sequence[str], seed: int) -> Tensor:
    """Rows in groups of 100, in a seeded order, each with captions that all differ: int64[G,100]. A row is in one at most."""
    places: dict[str, list[int]] = {}
    for i in np.random.default_rng(seed).permutation(len(texts)).tolist():
        places.setdefault(texts[i], []).append(i)
    groups = []
    for turn in range(max(map(len, places.values()))):
        rows = [rows[turn] for rows in places.values() if len(rows) > turn]
        groups += [rows[at : at + OF] for at in range(0, len(rows) - OF + 1, OF)]
    return torch.tensor(groups)


def retrieved(asked: Tensor, kept: Tensor, groups: Tensor) -> Tensor:
    """Whether each row's own is the closest of its group, of unit vectors [N,P] each: bool[G * 100]. A tie is not found."""
    near = asked[groups] @ kept[groups].mT
    own = near.diagonal(dim1=1, dim2=2)
    others = near.masked_fill(torch.eye(groups.shape[1], dtype=torch.bool), -2.0)  # below any cosine
    return (own > others.amax(2)).flatten()


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
