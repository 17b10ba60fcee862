"""How many held-out rows does a classifier name rightly? Knows labels, and a system that says them."""

from __future__ import annotations

import torch

from maquette.contracts import Classifying
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion

BATCH = 64
MEANINGS = {
    "accuracy": "Share of held-out rows whose kind is named rightly.",
    "accuracy of each kind": "The same, the mean over the kinds: rare ones count as much as common ones.",
}


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    return "" if isinstance(evidence.system.objective, Classifying) else "the system names no kinds"


@torch.no_grad()
def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Wilson's interval over rows; over kinds a normal one of their accuracies."""
    system = evidence.system
    assert system is not None and isinstance(system.objective, Classifying)
    system.eval()
    rows = torch.arange(min(len(evidence.data.held), 10_000))
    right, label = [], []
    for part in rows.split(BATCH):
        batch = evidence.data.held.rows(part)
        found = system.objective.logits(system, batch).argmax(1).cpu()
        right.append(found == batch["label"])
        label.append(batch["label"])
    hit, kind = torch.cat(right), torch.cat(label)
    weight = torch.bincount(kind).double()[kind].reciprocal()
    each = (hit.double() * weight * len(kind) / weight.sum()).numpy()
    options = (("interval", "Wilson"),)
    plain = evidence.estimate("accuracy", proportion(int(hit.sum()), len(hit)), len(hit), better="higher", options=options)
    evened = evidence.estimate(
        "accuracy of each kind", mean(each), len(hit), better="higher", options=(("interval", "normal over rows"),)
    )
    return {"accuracy": plain, "accuracy of each kind": evened}
