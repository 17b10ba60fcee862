"""Do the samples' features have the mean and covariance of the held-out rows'? Fréchet distance (Dowson & Landau 1982).

Named after its feature network, "FD-<network>"; "FID" would claim Inception-v3 and its 50,000 images (Heusel 2017).
"""

from __future__ import annotations

import numpy as np

from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import LEAST, Evidence
from maquette.metrics.intervals import bootstrap

RESAMPLES = 200
MEANINGS = {
    "FD-": "Fréchet distance between samples and held-out rows in the named classifier's last hidden layer; 0 is best, but real "
    "training rows do not reach 0 at this size. A memoriser wins it: read it beside the nearest-training distance.",
    "FD-randconv": "Fréchet distance in UNTRAINED convolutional features, because this data has no labels: a weak figure that "
    "sees textures and strokes, not what a picture shows.",
}


def applies(evidence: Evidence) -> str:
    if not evidence.pictures:
        return "the data are not images"
    rows = len(evidence.data.held)
    return "" if rows >= LEAST else f"{rows} held-out rows have no covariance to speak of; {LEAST} are needed"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """FD with a bootstrap interval over samples, redrawn within their labels.

    The reference rows are taken as given: every figure of the same signature has the same ones. Another held-out set of
    360 digits would move all of them together, by about .3.
    """
    ours, theirs = evidence.sample_features, evidence.held_features
    reference = gaussian(theirs)
    groups = evidence.labels("samples") if evidence.told else None

    def fd(weights: np.ndarray) -> float:
        return distance(*gaussian(ours, weights), *reference)

    found = bootstrap(fd, len(ours), groups=groups, resamples=RESAMPLES, seed=evidence.seed, floor=0.0)
    name = f"FD-{evidence.kind}"
    options = (("interval", f"bootstrap-{RESAMPLES} of samples"),)
    return {name: evidence.estimate(name, found, len(ours), samples=len(ours), rows=len(theirs), network=True, options=options)}


def gaussian(rows: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and unbiased covariance [D,D] of rows float64[N,D], each counted `weights` times."""
    weights = np.ones(len(rows)) if weights is None else weights
    total = weights.sum()
    mean = weights @ rows / total
    centred = rows - mean
    return mean, (centred * weights[:, None]).T @ centred / (total - 1)


def distance(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), the root by symmetric eigenvalues: no complex numbers arise."""
    values, vectors = np.linalg.eigh(cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ other_cov @ root).clip(0)).sum()
    return max(0.0, float(((mean - other_mean) ** 2).sum() + np.trace(cov) + np.trace(other_cov) - 2 * cross))
