"""Is what is written of a held-out text just what was wanted? Sign for sign.

Knows pairs of texts; for systems that write one from another.
"""

from __future__ import annotations

from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import proportion

MEANINGS = {
    "exact match": "Share of held-out rows of which the written text is the wanted one, sign for sign: what counts for dates, "
    "numbers and answers, and too much to ask of free sentences.",
}


def applies(evidence: Evidence) -> str:
    return evidence.unanswered


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """A share with Wilson's interval over the rows."""
    right = [wanted == written for wanted, written in evidence.answers]
    options = (("interval", "Wilson"),)
    found, n = proportion(sum(right), len(right)), len(right)
    return {"exact match": evidence.estimate("exact match", found, n, better="higher", samples=n, rows=n, options=options)}
