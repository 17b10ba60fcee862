"""Which of two answers does a system find better, the one that was preferred? Of held-out pairs.

Knows pairs of answers and an objective that says what they are worth; not by whom they were judged.
"""

from __future__ import annotations

import torch

from maquette.contracts import Judging
from maquette.data.comparisons import Comparisons
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import proportion

BATCH = 32
MOST = 1000  # pairs
MEANINGS = {
    "preference accuracy": "Share of held-out pairs of answers of which the system finds that one better that was preferred: .5 "
    "is a guess. Of a policy, better means that it became likelier than it was, by more.",
}


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if not isinstance(evidence.data.held, Comparisons):
        return "the data are no pairs of answers"
    return "" if isinstance(evidence.system.objective.voice, Judging) else "the system does not say what answers are worth"


@torch.no_grad()
def measure(evidence: Evidence) -> dict[str, Estimate]:
    """A share with Wilson's interval over the pairs."""
    assert evidence.system is not None
    system, held = evidence.system.eval(), evidence.data.held
    right = []
    for rows in torch.arange(min(MOST, len(held))).split(BATCH):
        worth = system.objective.voice.worth(system, held.rows(rows))  # type: ignore[operator]
        right += (worth[:, 0] > worth[:, 1]).tolist()
    n, options = len(right), (("interval", "Wilson"), ("precision", evidence.precision))
    found = proportion(sum(right), n)
    return {"preference accuracy": evidence.estimate("preference accuracy", found, n, better="higher", rows=n, options=options)}
