"""Three Gaussians in the plane: their exact denoiser, a small network that learns them, and how samples of it are drawn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from maquette.contracts import Network
from maquette.data import Data, Facts, Split
from maquette.processes.gaussian import Gaussian
from maquette.streams import Streams

CENTRES, WIDTH = torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]]), 0.15


class Exact(Network):
    """The exact denoiser of the three Gaussians, answering in its process's terms."""

    def __init__(self, process: Gaussian, width: float = WIDTH) -> None:
        super().__init__()
        self.process, self.width = process, width

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        alpha, sigma = self.process.levels(t, x)
        whole = (alpha * self.width) ** 2 + sigma**2
        away = x[:, None] - alpha[..., None] * CENTRES
        share = (-away.square().sum(-1) / (2 * whole)).softmax(1)
        guess = (share[..., None] * (CENTRES + (alpha * self.width**2 / whole)[..., None] * away)).sum(1)
        skip, out = self.process.reading.scales(alpha, sigma)
        return (guess - skip * x) / out.clamp(min=1e-6)


class Planar(Network):
    """A perceptron of points, a time, and perhaps a condition's vector of `told` numbers."""

    def __init__(self, told: int = 0) -> None:
        super().__init__()
        self.told = told
        self.layers = nn.Sequential(nn.Linear(5 + told, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        more = [cond.vector] if self.told else []
        return self.layers(torch.cat([x, t[:, None], (3 * t[:, None]).cos(), (6 * t[:, None]).sin(), *more], 1))


def mixture(rows: int) -> Data:
    """Points of the three Gaussians, as codes."""
    rng = Streams.of(7, rows)
    code = CENTRES[rng.integers(3)] + WIDTH * rng.normal(2)
    facts = Facts("mixture", "image", "simulated", "-", "-", "-", {"train": rows, "held": 0}, shape=(2,))
    return Data(facts, lambda: {"train": Split({"code": code}), "held": Split({"code": code[:0]})})


@torch.no_grad()
def drawn(sampler: Any, net: Network, n: int = 500) -> Tensor:
    """n points [n,2] from a network alone; the same noise whatever the sampler."""
    *_, sample = sampler.draw(SimpleNamespace(steady=lambda role: net), n, rng=Streams.of(5, n))
    return sample
