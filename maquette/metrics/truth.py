"""Where the data's own density is known: does the system have it? Modes found, nats above the truth, score against the score.

Knows mixtures of Gaussians (data/mixtures.py), an objective's `score` and its process. Knows no family.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from maquette.data.mixtures import Mixture, density
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence, UnfitSamples
from maquette.metrics.intervals import bootstrap, mean, proportion
from maquette.streams import Streams

NEAR = 2.0  # deviations from a mode's centre within which a sample is of high quality
FAIR = 0.2  # of a mode's fair share of the samples must be so near, for the mode to count as found
DRAWS = 4  # of a random bound, averaged
MEANINGS = {
    "modes": "How many of the true density's modes have at least a fifth of their share of samples within 2 deviations.",
    "high quality": "Share of samples within 2 deviations of a true mode: .865 for the truth itself, where modes lie apart.",
    "nats above truth": "Nats per held-out row that the model needs beyond the true density: 0 is best, nothing honest is below. "
    "A bound's own looseness is in it.",
    "score error": "Mean square of (learned - exact) score over that of the exact one, each times sigma, at the process's own "
    "times: 0 is the exact score, 1 is no better than none.",
}


def applies(evidence: Evidence) -> str:
    return "" if density(evidence.facts.name) is not None else "the density of the data is not known"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Modes and quality of the samples; the likelihood and the score of those systems that have one, on held-out rows."""
    truth = density(evidence.facts.name)
    assert truth is not None
    points = evidence.samples[evidence.facts.field].double()
    if not bool(torch.isfinite(points).all()):
        raise UnfitSamples("some samples are not finite")
    n, sign, where = len(points), evidence.estimate, (("within", f"{NEAR:g} deviations"),)
    mode, good = nearest_mode(truth, points)
    value, low, high = bootstrap(lambda weights: float(found(truth, mode, good, weights)), n, seed=evidence.seed, floor=0.0)
    count = value, low, min(high, float(len(truth.centres)))
    options = (*where, ("of", str(len(truth.centres))), ("interval", "bootstrap-200 of samples"))
    figures = {
        "modes": sign("modes", count, n, samples=n, better="higher", options=options),
        "high quality": sign(
            "high quality",
            proportion(int(good.sum()), n),
            n,
            samples=n,
            better="higher",
            aim=quality_of_truth(truth, evidence.seed),
            options=(*where, ("interval", "Wilson")),
        ),
    }
    return figures | _likelihood(evidence, truth) | _score(evidence, truth)


def nearest_mode(truth: Mixture, points: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Each point's nearest mode int64[N], and whether it is within NEAR deviations of it."""
    away, mode = torch.cdist(points.double(), truth.centres).min(1)
    return mode.numpy(), (away <= NEAR * truth.spread).numpy()


def found(truth: Mixture, mode: np.ndarray, good: np.ndarray, weights: np.ndarray | None = None) -> int:
    """How many modes have enough good points, counted `weights` times."""
    weights = np.ones(len(mode)) if weights is None else weights
    modes = len(truth.centres)
    return int((np.bincount(mode, weights * good, modes) >= FAIR * weights.sum() / modes).sum())


def quality_of_truth(truth: Mixture, seed: int) -> float:
    """The share of the truth's own draws that is of high quality."""
    return float(nearest_mode(truth, truth.draw(Streams.of(seed, 20_000)))[1].mean())


@torch.no_grad()
def _likelihood(evidence: Evidence, truth: Mixture) -> dict[str, Estimate]:
    """Mean of -log p(model) + log p(truth) over held-out rows: the Kullback-Leibler divergence from the truth, or a bound."""
    system = evidence.system
    if system is None or not system.objective.bound:
        return {}
    system.eval()
    held, n = evidence.held, len(evidence.held[evidence.facts.field])
    streams, draws = Streams.of(evidence.seed, n, device=system.device), 1 if system.objective.bound == "exact" else DRAWS
    scores = [system.objective.score(system, held, streams.fork(draw)) for draw in range(draws)]
    nats = torch.stack([score.double().cpu() for score in scores if score is not None]).mean(0)
    above = (nats + truth.log_density(held[evidence.facts.field])).numpy()
    options = (("bound", system.objective.bound), ("interval", "normal"))
    return {"nats above truth": evidence.estimate("nats above truth", mean(above), n, rows=n, aim=0.0, options=options)}


@torch.no_grad()
def _score(evidence: Evidence, truth: Mixture) -> dict[str, Estimate]:
    """The learned score at times as in training, beside the exact one of the dissolved mixture."""
    system: Any = evidence.system
    process: Any = getattr(getattr(system, "objective", None), "process", None)
    if not (hasattr(process, "levels") and hasattr(process, "noise")):
        return {}
    system.eval()
    x = system.encode(evidence.held)
    rng = Streams.of(evidence.seed, len(x), device=system.device)
    t = process.times(rng)
    x_t = process.corrupt(x, t, rng)
    alpha, sigma = (level.flatten().cpu() for level in process.levels(t, x_t))
    guess = process.noise(process.denoise(system.steady("main"), x_t, t), x_t, t).double().cpu()
    exact = -sigma[:, None].double() * truth.dissolved(alpha, sigma).score(x_t.cpu())
    missed, whole = ((guess - exact).square().sum(1).numpy(), exact.square().sum(1).numpy())
    error = bootstrap(lambda w: float(w @ missed / (w @ whole)), len(x), seed=evidence.seed, floor=0.0)
    options = (("times", "as in training"), ("interval", "bootstrap-200 of rows"))
    return {"score error": evidence.estimate("score error", error, len(x), rows=len(x), options=options)}
