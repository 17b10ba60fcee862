"""Does each unit of the latent stand for one factor of the data, and each factor lie in one unit? Higgins', MIG and DCI.

Knows codes [N,D], true factors [N,K], and an objective's optional `represent`. Looks at held-out rows; draws no samples.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence, UnfitSamples
from maquette.metrics.intervals import Interval, bootstrap, proportion
from maquette.streams import Streams

LEAN = 0.1  # of one factor's entropy that another may tell; a few hundredths is what finite rows show
LEAST = 500  # rows, below which mutual information in BINS x values cells says little
BINS = 20  # equally wide, per unit (Locatello 2019, app. C)
RESAMPLES = 200
TREES = 40  # of the forest, each grown on a bootstrap of the rows
LEAF = 5  # rows at least in a leaf: below it trees learn rows by heart, from units that say nothing
VOTES, PAIRS = (1000, 500), 64  # votes the judge learns from and is tested on; pairs of rows behind each (Higgins 2017: 64)
MEANINGS = {
    "Higgins score": "How often a linear judge names the factor that two rows share, from their codes' mean difference (Higgins "
    "2017). Chance is one over the number of factors. A rotated code can win it: read it beside MIG.",
    "MIG": "Mutual information gap (Chen 2018): how much more of a factor the best unit tells than the second best, as a share "
    "of all there is to tell, averaged over factors. 1 is one unit per factor.",
    "DCI disentanglement": "How far each unit serves one factor alone, by the importance a forest of trees gives it (Eastwood & "
    "Williams 2018); units weigh as much as they are used. 1 is best.",
    "DCI completeness": "How far each factor is told by one unit alone; 1 is best.",
    "DCI informativeness": "Share of rows whose factor the forest names from the code, on rows that the tree did not see; mean "
    "over factors. Says whether the code knows the factors at all.",
}


def applies(evidence: Evidence) -> str:
    if not evidence.facts.factors:
        return "the factors of the data are not known"
    if evidence.system is None or not hasattr(evidence.system.objective, "represent"):
        return "the system gives no code for a row"
    rows = evidence.facts.rows.get("held", 0)
    return "" if rows >= LEAST else f"needs {LEAST} held-out rows or more, and there are {rows}"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """The five figures, with intervals over the held-out rows for the one model at hand.

    MIG looks at draws from the posterior, as its definition says: a unit that the prior has swallowed then tells nothing. The
    others look at means. Another training run is not in any interval.
    """
    means, draws, factors = codes(evidence)
    _independent(list(evidence.facts.factors), factors)
    n, sign = len(factors), evidence.estimate
    wide, forest = (("bins", str(BINS)),), (("trees", str(TREES)), ("leaf", str(LEAF)))
    judged = (("pairs", str(PAIRS)), ("votes", str(VOTES[0])), ("interval", "Wilson"))
    found = {
        "Higgins score": sign(
            "Higgins score", higgins(means, factors, evidence.seed), VOTES[1], rows=n, better="higher", options=judged
        ),
        "MIG": sign(
            "MIG",
            gap(draws, factors, evidence.seed),
            n,
            rows=n,
            better="higher",
            options=(*wide, ("code", "posterior draws"), ("interval", f"bootstrap-{RESAMPLES} of rows")),
        ),
    }
    for name, interval in dci(means, factors, evidence.seed).items():
        options = (*forest, ("code", "posterior means"), ("interval", "bootstrap of rows, by tree"))
        found[name] = sign(name, interval, n, rows=n, better="higher", options=options)
    return found


def codes(evidence: Evidence, batch: int = 256) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the held-out rows: posterior means and one posterior draw, float64[N,D] each, and factors int64[N,K].

    Raises:
        UnfitSamples: the code of a row is not a vector of numbers, or not finite.
    """
    system: Any = evidence.system
    held = evidence.held
    factors = np.stack([held[name].numpy() for name in evidence.facts.factors], 1)
    system.eval()
    streams = Streams.of(evidence.seed, len(factors), device=system.device)
    found: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    with torch.no_grad():
        for at in range(0, len(factors), batch):
            rows = slice(at, min(len(factors), at + batch))
            part = {name: column[rows] for name, column in held.items()}
            for kept, rng in zip(found, (None, streams[rows]), strict=True):
                kept.append(system.objective.represent(system, part, rng).double().cpu())
    means, draws = (torch.cat(parts) for parts in found)
    if means.dim() != 2 or not means.shape[1]:
        raise UnfitSamples(f"a row's code has the shape {tuple(means.shape[1:])}; these figures are for a vector of units")
    if not bool(torch.isfinite(means).all() and torch.isfinite(draws).all()):
        raise UnfitSamples("some codes are not finite")
    return means.numpy(), draws.numpy(), factors


def _independent(names: list[str], factors: np.ndarray) -> None:
    """Refuse factors that tell of each other, as where pairs of them are held out: a unit cannot then serve one alone."""
    for a, b in itertools.combinations(range(len(names)), 2):
        if _gaps(factors[:, [a]], factors[:, [b]], np.ones(len(factors)))[0] > LEAN:
            raise UnfitSamples(f"the held-out rows' {names[a]} and {names[b]} tell of each other, and factors must not")


# -- the mutual information gap --------------------------------------------------------------------------------------------


def gap(code: np.ndarray, factors: np.ndarray, seed: int = 0) -> Interval:
    """MIG (Chen 2018, eq. 6): mean over factors of (largest - second largest mutual information with a unit) / entropy."""
    binned = np.stack([_binned(unit) for unit in code.T], 1)
    return bootstrap(lambda weights: float(_gaps(binned, factors, weights).mean()), len(code), resamples=RESAMPLES, seed=seed)


def _binned(unit: np.ndarray) -> np.ndarray:
    """A unit's values as int64[N] in 0 .. BINS - 1: equally wide bins from its smallest to its largest value."""
    low, high = unit.min(), unit.max()
    return np.minimum(((unit - low) / max(high - low, 1e-12) * BINS).astype(np.int64), BINS - 1)


def _gaps(binned: np.ndarray, factors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The gap of each factor [K], from rows counted `weights` times."""
    shared = np.empty((factors.shape[1], binned.shape[1]))
    for k, factor in enumerate(factors.T):
        values = int(factor.max()) + 1
        entropy = _entropy(np.bincount(factor, weights, values))
        for d, unit in enumerate(binned.T):
            both = _entropy(np.bincount(unit, weights)) + entropy - _entropy(np.bincount(unit * values + factor, weights))
            shared[k, d] = both / max(entropy, 1e-12)
    best = np.sort(np.concatenate([np.zeros((len(shared), 1)), shared], 1), 1)  # with one unit alone, the second best is 0
    return best[:, -1] - best[:, -2]


def _entropy(counts: np.ndarray) -> float:
    """Of the shares that counts stand for, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


# -- disentanglement, completeness, informativeness ------------------------------------------------------------------------


def dci(code: np.ndarray, factors: np.ndarray, seed: int = 0) -> dict[str, Interval]:
    """Eastwood & Williams 2018, section 2, with importances from random forests of classification trees.

    A forest's trees are grown on bootstraps of the rows anyhow: the spread over trees, each one's importances taken alone, is the
    interval's. A single tree is less steady than its forest, so the interval is on the wide side.
    """
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(seed)
    n, units = code.shape
    importance = np.empty((TREES, units, factors.shape[1]))
    right = np.empty((TREES, factors.shape[1]))
    for t in range(TREES):
        counts = rng.multinomial(n, np.full(n, 1 / n))
        seen = counts > 0
        for k, factor in enumerate(factors.T):
            tree = DecisionTreeClassifier(min_samples_leaf=LEAF, random_state=int(rng.integers(1 << 31)))
            tree.fit(code[seen], factor[seen], sample_weight=counts[seen])
            importance[t, :, k] = tree.feature_importances_
            right[t, k] = tree.score(code[~seen], factor[~seen])

    def spread(figure: Any, values: np.ndarray) -> Interval:
        value = figure(values.mean(0))
        each = np.array([figure(one) for one in values])
        low, high = np.percentile(each, (2.5, 97.5)) - each.mean() + value
        return value, max(0.0, min(float(low), value)), min(1.0, max(float(high), value))

    return {
        "DCI disentanglement": spread(lambda table: _concentrated(table), importance),
        "DCI completeness": spread(lambda table: _concentrated(table.T), importance),
        "DCI informativeness": spread(lambda shares: float(shares.mean()), right),
    }


def _concentrated(table: np.ndarray) -> float:
    """Mean over rows of 1 - entropy of the row's shares (in units of the most there can be), weighed by the row's total."""
    totals = table.sum(1)
    if totals.sum() <= 0 or table.shape[1] < 2:
        return 0.0
    each = [1 - _entropy(row) / np.log(table.shape[1]) if total > 0 else 0.0 for row, total in zip(table, totals, strict=True)]
    return float(np.dot(each, totals) / totals.sum())


# -- the beta-VAE score ----------------------------------------------------------------------------------------------------


def higgins(code: np.ndarray, factors: np.ndarray, seed: int = 0) -> Interval:
    """Accuracy of a linear judge that names the factor PAIRS pairs share, from their mean |difference| (Higgins 2017, sec. 3)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    votes = [_vote(code, factors, rng) for _ in range(sum(VOTES))]
    differences, asked = np.stack([found for found, _ in votes]), np.array([factor for _, factor in votes])
    learn = VOTES[0]
    scale = StandardScaler().fit(differences[:learn])
    judge = LogisticRegression(max_iter=2000).fit(scale.transform(differences[:learn]), asked[:learn])
    hits = int((judge.predict(scale.transform(differences[learn:])) == asked[learn:]).sum())
    return proportion(hits, VOTES[1])


def _vote(code: np.ndarray, factors: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """The mean absolute difference [D] of pairs of rows that share one factor, and which one."""
    k = int(rng.integers(factors.shape[1]))
    first = rng.integers(len(code), size=PAIRS)
    mates = [np.flatnonzero(factors[:, k] == value) for value in range(int(factors[:, k].max()) + 1)]
    second = np.array([rng.choice(mates[value]) for value in factors[first, k]])
    return abs(code[first] - code[second]).mean(0), k
