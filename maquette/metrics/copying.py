"""Are the samples copies? Each sample's distance to its nearest training row, beside what fresh real rows have.

Knows pixels in 0..1 and Euclid. Says nothing of copies that were shifted, mirrored or recoloured.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import Z95, mean, proportion

LEAST = 100  # held-out rows, below which their nearest 1 % is no yardstick
MEANINGS = {
    "NN distance": "Mean distance from a sample to its nearest training row (pixels in 0..1, Euclid). Well below the held-out "
    "rows' own is copying; well above is blur or noise.",
    "NN distance (real)": "The same for held-out rows: what fresh real data have.",
    "NN ratio": "The samples' over the held-out rows': 1 is best, well below is copying.",
    "copies": "Share of samples nearer to a training row than the nearest 1 % of held-out rows are: honest samples have .01. "
    "Not given below 100 held-out rows.",
}


def applies(evidence: Evidence) -> str:
    if evidence.facts.few:
        return "no picture is held out"
    return "" if evidence.pictures else "the data are not images"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Nearest-training distances of samples and held-out rows, their ratio, and the share of near copies."""
    train = evidence.rows("train")
    made, real = nearest(evidence.rows("samples"), train), nearest(evidence.rows("held"), train)
    size: dict[str, Any] = {"samples": len(made), "rows": len(real)}
    among = ("training rows", str(len(train)))
    normal, wilson = (among, ("interval", "normal")), (among, ("interval", "Wilson"))
    sign, n = evidence.estimate, len(made)
    found = {
        "NN distance": sign("NN distance", mean(made), n, better="higher", aim=float(real.mean()), **size, options=normal),
        "NN distance (real)": sign("NN distance (real)", mean(real), len(real), rows=len(real), options=normal),
        "NN ratio": sign("NN ratio", ratio(made, real), n, better="higher", aim=1.0, **size, options=normal),
    }
    if len(real) < LEAST:
        return found
    near = proportion(int((made < np.percentile(real, 1)).sum()), n)
    return found | {"copies": sign("copies", near, n, **size, options=wilson)}


def nearest(rows: np.ndarray, among: np.ndarray, batch: int = 512) -> np.ndarray:
    """Euclidean distance of each row to the nearest of `among`: float64[N]. Exact also for a row that is among them."""
    square = (among**2).sum(1)
    found = np.empty(len(rows))
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        closest = (square - 2 * part @ among.T).argmin(1)
        found[at : at + batch] = np.sqrt(((part - among[closest]).astype(np.float64) ** 2).sum(1))
    return found


def ratio(made: np.ndarray, real: np.ndarray) -> tuple[float, float, float]:
    """Ratio of two independent means with its delta-method interval; infinite where the real distance is 0."""
    below = float(real.mean())
    if below == 0:
        return math.inf, math.inf, math.inf
    value = float(made.mean()) / below
    above, under = (float(rows.std(ddof=1)) / math.sqrt(len(rows)) for rows in (made, real))  # standard errors
    half = Z95 * math.hypot(above, value * under) / below
    return value, max(0.0, value - half), value + half
