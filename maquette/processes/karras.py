"""Noise that grows without bound, x_t = x + sigma eps, trained at log-normal levels and sampled on Karras's grid.

EDM (Karras 2022) is this schedule in the one Gaussian process, with all four of its preconditioning factors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maquette.processes.gaussian import Balanced, Gaussian, Reading, Scaled, Schedule
from maquette.streams import Streams


@dataclass(frozen=True)
class Growing:
    """alpha = 1, sigma = highest * t^rho; so even steps of t are Karras's grid (Karras 2022, eq. 5 and table 1).

    Args:
        centre, width: mean and standard deviation of log(sigma) in training (their P_mean and P_std).
        lowest: sigma of the last sampling step before 0.
        highest: sigma at t = 1.
        rho: how much of the grid is spent on little noise.
    """

    centre: float = -1.2
    width: float = 1.2
    lowest: float = 0.002
    highest: float = 80.0
    rho: float = 7.0

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.highest * t**self.rho

    def times(self, rng: Streams) -> Tensor:
        share = (self.centre + self.width * rng.normal()).exp() / self.highest
        return (share ** (1 / self.rho)).clamp(max=1.0)

    def grid(self, steps: int) -> Tensor:
        least = (self.lowest / self.highest) ** (1 / self.rho)
        return torch.cat([torch.linspace(1, least, steps), torch.zeros(1)])


@dataclass(frozen=True)
class Grown:
    """Another schedule with all of x_t divided by alpha: alpha is 1 and sigma grows without bound, as EDM's does."""

    schedule: Schedule

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule.levels(t)
        return torch.ones_like(alpha), sigma / alpha

    def times(self, rng: Streams) -> Tensor:
        return self.schedule.times(rng)

    def grid(self, steps: int) -> Tensor:
        return self.schedule.grid(steps)


@dataclass(frozen=True)
class Shrunk:
    """A variance-preserving network's reading where x_t is shown to it at unit variance (`Unit`), whatever it is here."""

    reading: Reading

    def scales(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        scale = (alpha.square() + sigma.square()).rsqrt()
        skip, out = self.reading.scales(alpha * scale, sigma * scale)
        return skip * scale, out


@dataclass(frozen=True)
class Unit:
    """x_t at unit variance where the data's is 1, and times as they are."""

    def show(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_t * (alpha.square() + sigma.square()).rsqrt()

    def hear(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return t


def grown(process: Gaussian) -> Gaussian:
    """The same network's process in x_t / alpha: first-order solvers draw the same from both, Heun's does not.

    Raises:
        ValueError: the network is not shown x_t as it is.
    """
    if process.view is not None:
        raise ValueError(f"{process.view} shows the network something else than x_t; only a process without a view can grow")
    return replace(process, schedule=Grown(process.schedule), reading=Shrunk(process.reading), view=Unit())


def karras(spread: float = 0.5, centre: float = -1.2, width: float = 1.2) -> Gaussian:
    """EDM's process: c_skip and c_out (`Balanced`), c_in and c_noise (`Scaled`), loss weight 1 / c_out^2.

    Args:
        spread: standard deviation of the data.
        centre, width: of log(sigma) in training.
    """
    return Gaussian(Growing(centre, width), Balanced(spread), view=Scaled(spread))
