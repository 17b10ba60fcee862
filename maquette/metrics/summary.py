"""How much of what was wanted does a written summary say? ROUGE, as Google's rouge_score counts it.

Knows pairs of texts and rouge_score, asked for only here; for systems that write one from another.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

import numpy as np

from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import bootstrap

RESAMPLES = 500
KINDS = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}
MEANINGS = {
    "ROUGE-1": "Words that the written text shares with the wanted one, precision and recall alike, mean over held-out rows, 0 "
    "to 100 (Lin 2004). Words are runs of a to z and 0 to 9 in lower case: no figure for languages with other letters.",
    "ROUGE-2": "The same by pairs of words.",
    "ROUGE-L": "The same by the longest series of words that both have in this order.",
}


def applies(evidence: Evidence) -> str:
    if evidence.unanswered:
        return evidence.unanswered
    return "" if importlib.util.find_spec("rouge_score") else "rouge_score is not installed: pip install 'maquette[eval]'"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Mean F1 times 100, with bootstrap intervals over the rows."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([*KINDS.values()], use_stemmer=False)
    rows = [scorer.score(wanted, written) for wanted, written in evidence.answers]
    version = importlib.metadata.version("rouge-score")
    options = (("rouge_score", f"{version}, no stemmer"), ("interval", f"bootstrap, {RESAMPLES} of rows"))
    figures = {}
    for name, kind in KINDS.items():
        each = np.array([100 * row[kind].fmeasure for row in rows])

        def score(weights: np.ndarray, each: np.ndarray = each) -> float:
            return float(weights @ each / weights.sum())

        found = bootstrap(score, len(each), resamples=RESAMPLES, seed=evidence.seed, floor=0.0)
        n = len(each)
        figures[name] = evidence.estimate(name, found, n, better="higher", samples=n, rows=n, options=options)
    return figures
