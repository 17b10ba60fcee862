"""The straight path from data to noise, x_t = (1 - t) x + t eps, with a network that reads its velocity.

Flow matching (Lipman 2023) and rectified flow (Liu 2023) are this schedule in the one Gaussian process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maquette.processes.gaussian import Gaussian, Reading
from maquette.streams import Streams


@dataclass(frozen=True)
class Straight:
    """alpha = 1 - t, sigma = t; training times are logit-normal (Esser 2024, section 3.1).

    Args:
        shift: of all times, in training and in sampling (Esser 2024, eq. 23): their odds t / (1 - t) are multiplied by it.
            Noise destroys a small image sooner than a large one, so below 1 for small and above 1 for large ones.
        spread: standard deviation of logit(t) in training.
    """

    shift: float = 1.0
    spread: float = 1.0

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def times(self, rng: Streams) -> Tensor:
        return torch.sigmoid(math.log(self.shift) + self.spread * rng.normal())

    def grid(self, steps: int) -> Tensor:
        t = torch.linspace(1, 0, steps + 1)
        return self.shift * t / (1 + (self.shift - 1) * t)


@dataclass(frozen=True)
class Drift:
    """F estimates dx_t/dt = eps - x of the straight path: x = x_t - t F."""

    def scales(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), -sigma


def flow(shift: float = 1.0, spread: float = 1.0, reading: Reading | None = None) -> Gaussian:
    """Flow matching's process: squared error of the velocity is paid, whatever the network estimates.

    Args:
        shift, spread: of the straight path's times.
        reading: of the network; None = the velocity itself.
    """
    return Gaussian(Straight(shift, spread), reading or Drift(), Drift(), cap=400.0)
