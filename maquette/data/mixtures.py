"""Built-in points of the plane from mixtures of Gaussians: density, score and modes are known exactly, at every noise level.

Knows formulas, no model. What a system learns from these can be held against the truth itself (metrics/truth.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from maquette.data.core import Data, Facts, Split, fingerprint
from maquette.streams import Streams, mix

ROWS = {"train": 45_000, "held": 5_000}
DIGITS = 5  # decimals kept of a coordinate, so that a last bit of a logarithm moves no row and no hash


@dataclass(frozen=True, eq=False)
class Mixture:
    """Equal Gaussians about `centres` float64[K,D]; `spread` is the standard deviation of each, along every axis.

    A row may have a mixture of its own: centres [B,K,D] with spread [B], as `dissolved` gives for times [B].
    """

    centres: Tensor
    spread: Tensor

    def _log(self, x: Tensor) -> Tensor:
        """Log density of each part at x: [B,D] -> [B,K]."""
        variance = self.spread.square()[..., None]
        whole = math.log(self.centres.shape[-2]) + 0.5 * x.shape[1] * (2 * math.pi * variance).log()
        return -(x[:, None] - self.centres).square().sum(-1) / (2 * variance) - whole

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) in nats, [B,D] -> [B]."""
        return self._log(x.double()).logsumexp(1)

    def score(self, x: Tensor) -> Tensor:
        """The gradient of log p(x), [B,D] -> [B,D]."""
        share = self._log(x.double()).softmax(1)[..., None]
        return (share * (self.centres - x.double()[:, None])).sum(1) / self.spread.square()[..., None]

    def dissolved(self, alpha: Tensor, sigma: Tensor) -> Mixture:
        """The density of alpha x + sigma eps, with alpha and sigma float[B] of each row's own time."""
        alpha, sigma = alpha.double(), sigma.double()
        return Mixture(alpha[:, None, None] * self.centres, ((alpha * self.spread).square() + sigma.square()).sqrt())

    def draw(self, rng: Streams) -> Tensor:
        """float64[B,D]."""
        part = self.centres[rng.integers(len(self.centres))]
        return part + self.spread * rng.normal(self.centres.shape[1]).double()


def _mixture(places: list[tuple[float, float]], spread: float) -> Mixture:
    return Mixture(torch.tensor(places, dtype=torch.float64), torch.tensor(spread, dtype=torch.float64))


def _grid() -> Mixture:
    line = [-0.8, -0.4, 0.0, 0.4, 0.8]
    return _mixture([(x, y) for y in line for x in line], 0.05)


def _ring() -> Mixture:
    return _mixture([(0.75 * math.cos(math.pi * i / 4), 0.75 * math.sin(math.pi * i / 4)) for i in range(8)], 0.04)


def _spiral() -> Mixture:
    """One arm of two turns, its points as far apart as its Gaussians are wide."""
    turns = [math.sqrt(i / 143) for i in range(144)]  # a root: equal steps along the arm, nearly
    return _mixture([(0.85 * s * math.cos(4 * math.pi * s), 0.85 * s * math.sin(4 * math.pi * s)) for s in turns], 0.03)


@cache
def density(name: str) -> Mixture | None:
    """The exact density of a built-in's rows, None where there is none."""
    known = {"grid": _grid, "ring": _ring, "spiral": _spiral}
    return known[name]() if name in known else None


def grid() -> Data:
    """Points of the plane from 25 Gaussians on a 5x5 grid, 8 deviations apart; simulated, exact density."""
    return _points("grid")


def ring() -> Data:
    """Points of the plane from 8 Gaussians on a circle; simulated, exact density."""
    return _points("ring")


def spiral() -> Data:
    """Points of the plane along a spiral of two turns; simulated, exact density."""
    return _points("spiral")


def _points(name: str) -> Data:
    """45,000 and 5,000 draws of a mixture, as field "point": float32[N,2] within -1..1, but for stray ones."""
    mixture = density(name)
    assert mixture is not None
    rows = mixture.draw(Streams.of(mix(*name.encode()), sum(ROWS.values()))).float()
    rows = (rows * 10**DIGITS).round() / 10**DIGITS
    train = ROWS["train"]
    columns = {"train": {"point": rows[:train]}, "held": {"point": rows[train:]}}
    facts = Facts(
        name=name,
        field="point",
        kind="simulated",
        licence="the project's own (see LICENSE)",
        attribution="drawn by maquette from a mixture of Gaussians",
        hash=fingerprint({split: dict(found) for split, found in columns.items()}),
        rows=dict(ROWS),
        shape=(2,),
        split="independent draws",
    )
    return Data(facts, lambda: {split: Split(dict(found)) for split, found in columns.items()})
