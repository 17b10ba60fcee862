"""The straight path from data to noise, x_t = (1 - t) x + t eps, with a network that reads its velocity.

Flow matching (Lipman 2023) and rectified flow (Liu 2023) are this schedule in the one Gaussian process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maquette.processes.chain import strides
from maquette.processes.gaussian import Clean, Gaussian, Reading
from maquette.streams import Streams


@dataclass(frozen=True)
class Straight:
    """alpha = 1 - t, sigma = t; training times are logit-normal (Esser 2024, section 3.1).

    Args:
        shift: of all times, in training and in sampling (Esser 2024, eq. 23): their odds t / (1 - t) are multiplied by it.
            Noise destroys a small image sooner than a large one, so below 1 for small and above 1 for large ones.
        spread: standard deviation of logit(t) in training.
        ends: the first and the last time before 0 that sampling visits, before the shift; the last 0 = a stride off 0.
        terminal: where the visits are stretched to, so that the last one is at this time; 0 = left as they are.
        rho: visits in even steps of t^(1 / rho) between the first and the last; of its log where infinite; 0 = left as they are.
    """

    shift: float = 1.0
    spread: float = 1.0
    ends: tuple[float, float] = (1.0, 0.0)
    terminal: float = 0.0
    rho: float = 0.0

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.float()
        return 1 - t, t

    def times(self, rng: Streams) -> Tensor:
        return torch.sigmoid(math.log(self.shift) + self.spread * rng.normal())

    def grid(self, steps: int) -> Tensor:
        """Where `ends`, `terminal` or `rho` say otherwise than even strides, in double precision."""
        if (*self.ends, self.terminal, self.rho) == (1, 0, 0, 0):
            t = torch.linspace(1, 0, steps + 1)
            return self.shift * t / (1 + (self.shift - 1) * t)
        first, last = self.ends
        t = torch.from_numpy(np.linspace(first, last, steps) if last else np.linspace(first, 0, steps + 1)[:-1])
        t = self.shift * t / (1 + (self.shift - 1) * t)
        if self.terminal and steps > 1:
            t = 1 - (1 - t) * (1 - self.terminal) / (1 - t[-1])
        if self.rho:
            t = strides(t[0], t[-1], steps, self.rho)
        return torch.cat([t, torch.zeros(1, dtype=t.dtype)])


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


def clean(shift: float = 1.0, spread: float = 1.0) -> Gaussian:
    """The same, of networks that estimate x itself and pay for the velocity (Li & He 2025), its error weighed by at most 4.

    Without that cap a small network spends itself on copying a picture that hardly any noise hides. Arguments as `flow` has them.
    """
    return Gaussian(Straight(shift, spread), Clean(), Drift(), cap=4.0)
