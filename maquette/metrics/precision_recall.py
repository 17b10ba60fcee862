"""Do samples look real, and is every kind of real row made? Precision, recall, density, coverage.

Kynkäänniemi 2019 (precision, recall) and Naeem 2020 (density, coverage). Knows feature vectors. A set is the union of
balls around its rows, each reaching to the row's k-th nearest neighbour.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean, proportion

K = 5  # Naeem's default; Kynkäänniemi used 3 with 50,000 images
MEANINGS = {
    "precision": "Share of samples that lie within the held-out rows' k-nearest-neighbour balls: do they look real?",
    "recall": "Share of held-out rows that lie within the samples' k-nearest-neighbour balls: is all the variety made?",
    "density": "How many held-out balls a sample lies in, over k: precision that no stray real row inflates; may pass 1.",
    "coverage": "Share of held-out rows with a sample in their own ball: recall no stray sample inflates; full is about .97.",
}


def applies(evidence: Evidence) -> str:
    if not evidence.pictures:
        return "the data are not images"
    return "" if evidence.facts.rows.get("held", 0) > K else f"needs more than {K} held-out rows"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Precision and density over all samples; recall and coverage with as many samples as reference rows.

    Those two grow with the number of samples, so they are only meaningful for sets of equal size. Each interval is over the
    set whose rows are counted, the other set taken as given: resampled twins would shrink the balls.
    """
    real, made = evidence.held_features, evidence.sample_features
    size = min(len(real), len(made))
    few, part = made[evidence.some("samples", size)], real[evidence.some("held", size)]
    reach, few_reach, part_reach = radii(real, K), radii(few, K), radii(part, K)
    within = distances(made, real) <= reach  # [samples, held]
    across = distances(few, part)
    recalled = (across <= few_reach[:, None]).any(0)
    covered = (across <= part_reach).any(0)
    k = ("k", str(K))
    every: dict[str, Any] = {"samples": len(made), "rows": len(real), "network": True, "better": "higher"}
    equal: dict[str, Any] = {"samples": size, "rows": size, "network": True, "better": "higher"}
    wilson, normal = (k, ("interval", "Wilson")), (k, ("interval", "normal"))
    hits, sign = int(within.any(1).sum()), evidence.estimate
    return {
        "precision": sign("precision", proportion(hits, len(made)), len(made), **every, options=wilson),
        "recall": sign("recall", proportion(int(recalled.sum()), size), size, **equal, options=wilson),
        "density": sign("density", mean(within.sum(1) / K), len(made), **every, options=normal),
        "coverage": sign("coverage", proportion(int(covered.sum()), size), size, **equal, options=wilson),
    }


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [len(a), len(b)]."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)


def radii(rows: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other row: [len(rows)]."""
    return np.partition(distances(rows, rows), k, axis=1)[:, k]  # its own 0 is the 0-th
