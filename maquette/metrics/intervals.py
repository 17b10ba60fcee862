"""95 % intervals: for a proportion, a mean, an area under the ROC curve, and by bootstrap for anything else.

Knows numbers only. Everything random is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Z95 = 1.959963984540054
Interval = tuple[float, float, float]  # value, low, high


def proportion(hits: float, n: int) -> Interval:
    """A share with Wilson's score interval (Wilson 1927), which keeps to 0..1 and is not empty at 0 or n hits.

    Where each of n is itself a share, not 0 or 1, their sum spreads no wider than hits would.
    """
    if n < 1:
        raise ValueError("a proportion of nothing")
    share = hits / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    return share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def mean(values: np.ndarray) -> Interval:
    """Mean of independent values [n], normal interval."""
    values = np.asarray(values, dtype=np.float64)
    middle = float(values.mean())
    half = Z95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return middle, middle - half, middle + half


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    groups: np.ndarray | None = None,
    resamples: int = 200,
    seed: int = 0,
    floor: float = -math.inf,
) -> Interval:
    """Bootstrap interval of a statistic of n rows (Efron 1979).

    Args:
        statistic: takes weights float64[n], how often each row was drawn, and returns the figure.
        groups: int64[n]; rows are redrawn within their group, where the rows were drawn with fixed numbers of each: without
            this the interval on digits was twice as wide as the figure's spread over fresh samples.
        floor: the smallest value the statistic can take.

    The percentiles are moved so that the replicates' mean lies on the value: a resampled set has fewer distinct rows, which
    shifts biased figures (a Fréchet distance grows). So this is the spread of the figure AT THIS SIZE; what an infinite
    number of samples would give is another quantity, which is why the size is in every signature.
    """
    rng = np.random.default_rng(seed)
    members = [np.arange(n)] if groups is None else [np.flatnonzero(groups == group) for group in np.unique(groups)]

    def counts() -> np.ndarray:
        drawn = np.empty(n)
        for rows in members:
            drawn[rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)))
        return drawn

    value = statistic(np.ones(n))
    replicates = np.array([statistic(counts()) for _ in range(resamples)])
    low, high = np.percentile(replicates, (2.5, 97.5)) - replicates.mean() + value
    return value, max(floor, min(float(low), value)), max(float(high), value)


def area(scores: np.ndarray, other: np.ndarray) -> Interval:
    """Area under the ROC curve: the chance that a row of `other` scores above one of `scores`; interval of DeLong (1988)."""
    m, n = len(scores), len(other)
    above = np.searchsorted(np.sort(scores), other, "left") + np.searchsorted(np.sort(scores), other, "right")
    below = np.searchsorted(np.sort(other), scores, "left") + np.searchsorted(np.sort(other), scores, "right")
    per_other, per_score = above / (2 * m), 1 - below / (2 * n)  # structural components, ties count half
    value = float(per_other.mean())
    half = Z95 * math.sqrt(per_other.var(ddof=1) / n + per_score.var(ddof=1) / m)
    return value, max(0.0, value - half), min(1.0, value + half)
