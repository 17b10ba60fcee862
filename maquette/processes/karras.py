"""Noise that grows without bound, x_t = x + sigma eps, trained at log-normal levels and sampled on Karras's grid.

EDM (Karras 2022) is this schedule in the one Gaussian process, with all four of its preconditioning factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maquette.processes.gaussian import Balanced, Gaussian, Scaled
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


def karras(spread: float = 0.5, centre: float = -1.2, width: float = 1.2) -> Gaussian:
    """EDM's process: c_skip and c_out (`Balanced`), c_in and c_noise (`Scaled`), loss weight 1 / c_out^2.

    Args:
        spread: standard deviation of the data.
        centre, width: of log(sigma) in training.
    """
    return Gaussian(Growing(centre, width), Balanced(spread), view=Scaled(spread))
