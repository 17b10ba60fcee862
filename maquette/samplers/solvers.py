"""Solvers of a Gaussian process: from noise to a sample, speaking to the process alone.

A step goes from time t to an earlier time s. Held fixed, an estimate of x and the noise it implies make Euler's step
and DDIM's one and the same, for every schedule (Song 2021, eq. 13). Drafts are estimates of x; the last is the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import Code, Condition, Network
from maquette.processes.gaussian import Gaussian
from maquette.samplers.guidance import guided
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@dataclass(frozen=True)
class Look:
    """What a solver sees at a time: its process's reading of the (guided, conditioned) network."""

    process: Gaussian
    net: Network
    cond: Condition | None
    clip: float

    def at(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of x and of the noise in x_t, each [B,...], at time t [B]."""
        x = self.process.denoise(self.net, x_t, t, self.cond)
        if self.clip > 0:
            x = x.clamp(-self.clip, self.clip)
        return x, self.process.noise(x, x_t, t)


@dataclass(frozen=True)
class Solver:
    """The walk that all solvers share; each says how it makes one `step`.

    Args:
        process: the one that the objective trains with.
        shape: of one code.
        steps: how many times s the walk visits.
        guidance: classifier-free guidance; 1 = off.
        clip: estimates of x are kept within -clip .. clip; 0 = off.
        strength: with a code to start from, the time from which it is restored; 1 forgets it (Meng 2022, SDEdit).
    """

    process: Gaussian
    shape: tuple[int, ...]
    steps: int = 20
    guidance: float = 1.0
    clip: float = 0.0
    strength: float = 0.7

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; it must lie in 0 .. 1, above 0")
        if not self.clip >= 0:
            raise ValueError(f"clip is {self.clip}; it must be at least 0, and 0 = off")

    def draw(
        self,
        system: System,
        n: int,
        *,
        start: Code | None = None,
        cond: Condition | None = None,
        null: Condition | None = None,
        rng: Streams,
    ) -> Iterator[Code]:
        """Estimates of n codes, one per step; the last is the sample. `start`: codes to vary instead of pure noise."""
        net = guided(system.steady("main"), self.guidance, null)
        look = Look(self.process, net, cond, self.clip)
        times = self.process.grid(self.steps).to(rng.keys.device)
        if start is None:
            x_t = self.process.prior(self.shape, rng)
        else:
            times = times[min(self.steps - 1, round(self.steps * (1 - self.strength))) :]
            x_t = self.process.corrupt(start.to(times.device), times[0].expand(n), rng)
        for t, s in pairwise(times[:, None].expand(-1, n)):
            guess, noise = look.at(x_t, t)
            x_t = self.step(look, x_t, guess, noise, t, s, rng)
            if s[0] > 0:
                yield guess
        yield x_t

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        """x_s from x_t, given the estimates of x and eps at t."""
        raise NotImplementedError


@dataclass(frozen=True)
class Euler(Solver):
    """First order: the estimates at t serve until s."""

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        alpha, sigma = self.process.levels(s, x)
        return alpha * x + sigma * eps


@dataclass(frozen=True)
class Heun(Solver):
    """Second order: the estimates at both ends, averaged (Karras 2022, alg. 1). Twice the work, but for the last step.

    The trapezoidal rule of x_s = x_t + (integral of x d alpha) + (integral of eps d sigma).
    """

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        (alpha_t, sigma_t), (alpha, sigma) = self.process.levels(t, x), self.process.levels(s, x)
        x_s = alpha * x + sigma * eps
        if not bool((sigma > 0).all()):  # at the data's end there is no noise left to estimate
            return x_s
        x_2, eps_2 = look.at(x_s, s)
        return x_t + (alpha - alpha_t) * (x + x_2) / 2 + (sigma - sigma_t) * (eps + eps_2) / 2


@dataclass(frozen=True)
class DDIM(Solver):
    """eta 0 is deterministic and can be run backwards; eta 1 adds the ancestral sampler's noise (Song 2021, eq. 12, 16)."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must lie in 0 .. 1")

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        (alpha_t, sigma_t), (alpha, sigma) = self.process.levels(t, x), self.process.levels(s, x)
        if not self.eta:
            return alpha * x + sigma * eps
        between = (sigma_t.square() - (alpha_t / alpha * sigma).square()).clamp(min=0)  # variance of x_t given x_s
        fresh = self.eta * sigma / sigma_t * between.sqrt()
        kept = (sigma.square() - fresh.square()).clamp(min=0).sqrt()
        return alpha * x + kept * eps + fresh * rng.normal(*x.shape[1:])

    def invert(self, net: Network, x: Code, cond: Condition | None = None) -> Tensor:
        """The noise from which eta 0 draws x, [B,...]: the same steps, uphill."""
        look, x_t = Look(self.process, net, cond, 0.0), x
        times = self.process.grid(self.steps).flip(0).to(x.device)
        times[0] = 0.001  # at 0 there is no noise to estimate
        for t, s in pairwise(times):
            guess, eps = look.at(x_t, t.expand(len(x)))
            alpha, sigma = self.process.levels(s.expand(len(x)), x)
            x_t = alpha * guess + sigma * eps
        return x_t


@dataclass(frozen=True)
class Ancestral(Solver):
    """A draw from q(x_s | x_t, x) with x estimated (Ho 2020, alg. 2 and eq. 7; any schedule: Kingma 2021, app. A).

    Args:
        large: the noise of q(x_s | x_t), "fixed large", instead of the posterior's.
    """

    steps: int = 100
    large: bool = False

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        (alpha_t, sigma_t), (alpha, sigma) = self.process.levels(t, x), self.process.levels(s, x)
        ratio = alpha_t / alpha
        between = (sigma_t.square() - (ratio * sigma).square()).clamp(min=0)
        mean = (ratio * sigma.square() * x_t + alpha * between * x) / sigma_t.square()
        spread = between.sqrt() if self.large else (between.sqrt() * sigma / sigma_t)
        return mean + torch.where(sigma > 0, spread, 0.0) * rng.normal(*x.shape[1:])
