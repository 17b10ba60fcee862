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

NEAR, WIDE = 3, 5  # each paper's own k: precision and recall; density and coverage. At 5 the former are full on digits
MOST = 4000  # rows a side: distances are held in memory at once
MEANINGS = {
    "precision": "Share of samples that lie within the held-out rows' k-nearest-neighbour balls: do they look real?",
    "recall": "Share of held-out rows that lie within the samples' k-nearest-neighbour balls: is all the variety made?",
    "density": "How many held-out balls a sample lies in, over k: precision that no stray real row inflates; may pass 1.",
    "coverage": "Share of held-out rows with a sample in their own ball: recall no stray sample inflates; full is about .97.",
}


def applies(evidence: Evidence) -> str:
    if not evidence.pictures:
        return "the data are not images"
    return "" if evidence.facts.rows.get("held", 0) > WIDE else f"needs more than {WIDE} held-out rows"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Precision and density over all samples; recall and coverage with as many samples as reference rows.

    Those two grow with the number of samples, so they are only meaningful for sets of equal size. Each interval is over the
    set whose rows are counted, the other set taken as given: resampled twins would shrink the balls.
    """
    real, made = distinct(evidence.held_features[:MOST]), evidence.sample_features[evidence.some("samples", MOST)]
    size = min(len(real), len(made))
    precise, dense, _, _ = manifolds(real, made)
    _, _, recalled, covered = manifolds(real[:size], made[:size])
    every: dict[str, Any] = {"samples": len(made), "rows": len(real), "network": True, "better": "higher"}
    equal: dict[str, Any] = {"samples": size, "rows": size, "network": True, "better": "higher"}
    near, wide = (("k", str(NEAR)), ("interval", "Wilson")), (("k", str(WIDE)), ("interval", "Wilson"))
    normal = (("k", str(WIDE)), ("interval", "normal"))
    sign = evidence.estimate
    return {
        "precision": sign("precision", proportion(int(precise.sum()), len(made)), len(made), **every, options=near),
        "recall": sign("recall", proportion(int(recalled.sum()), size), size, **equal, options=near),
        "density": sign("density", mean(dense), len(made), **every, options=normal),
        "coverage": sign("coverage", proportion(int(covered.sum()), size), size, **equal, options=wide),
    }


def distinct(rows: np.ndarray) -> np.ndarray:
    """The rows, each once, in the order of their first coming: a row's own copies would shrink its ball to nothing."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


def manifolds(real: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per sample: is it precise (bool), its density (float); per real row: is it recalled, covered (bool).

    real float64[N,D], made float64[M,D].
    """
    apart = distances(made, real)  # [M,N]
    near, wide, reached = apart <= radii(real, NEAR), apart <= radii(real, WIDE), apart <= radii(made, NEAR)[:, None]
    return np.any(near, axis=1), wide.sum(1) / WIDE, np.any(reached, axis=0), np.any(wide, axis=0)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [len(a), len(b)]."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)


def radii(rows: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other row: [len(rows)]."""
    return np.partition(distances(rows, rows), k, axis=1)[:, k]  # its own 0 is the 0-th
