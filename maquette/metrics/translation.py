"""How near is what is written of a held-out text to what was wanted? BLEU by words, chrF by letters, as sacrebleu counts them.

Knows pairs of texts and sacrebleu, asked for only here; for systems that write one from another.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import bootstrap

RESAMPLES = 500
MEANINGS = {
    "BLEU": "Runs of one to four words that what is written shares with the one text that was wanted, over all held-out rows, 0 "
    "to 100 (Papineni 2002, as sacrebleu counts). One wanted text is one of many good ones; a short text with no run of four "
    "shared counts little. Never compare figures of unlike signatures, nor of unlike data.",
    "chrF": "The same by runs of one to six letters, recall counting twice (Popovic 2015), 0 to 100: fairer to endings and "
    "compounds, and to rows of a word or two.",
}


def applies(evidence: Evidence) -> str:
    if evidence.unanswered:
        return evidence.unanswered
    return "" if importlib.util.find_spec("sacrebleu") else "sacrebleu is not installed: pip install 'maquette[eval]'"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Both over the whole held-out set, with sacrebleu's own signatures; intervals by bootstrap over its rows."""
    from sacrebleu.metrics import BLEU, CHRF

    wanted, written = ([pair[side] for pair in evidence.answers] for side in (0, 1))
    figures = {}
    for name, metric in {"BLEU": BLEU(), "chrF": CHRF()}.items():
        counts, said = counted(metric, wanted, written)
        options = (("sacrebleu", said), ("interval", f"bootstrap, {RESAMPLES} of rows"))

        def score(weights: np.ndarray, metric: Any = metric, counts: np.ndarray = counts) -> float:
            return score_of(metric, weights @ counts)

        found = bootstrap(score, len(wanted), resamples=RESAMPLES, seed=evidence.seed, floor=0.0)
        n = len(wanted)
        figures[name] = evidence.estimate(name, found, n, better="higher", samples=n, rows=n, options=options)
    return figures


def counted(metric: Any, wanted: list[str], written: list[str]) -> tuple[np.ndarray, str]:
    """Each row's counts, int64[N,K], of which the sums make the figure; and the metric's signature."""
    counts = np.array(metric._extract_corpus_statistics(written, [wanted]), dtype=np.int64)  # as its own bootstrap does
    return counts, metric.get_signature().format(short=False)


def score_of(metric: Any, sums: np.ndarray) -> float:
    """The figure of summed counts [K]."""
    return float(metric._compute_score_from_stats(sums.round().astype(np.int64).tolist()).score)
