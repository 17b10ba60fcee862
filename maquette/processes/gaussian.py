"""Gaussian corruption x_t = alpha(t) x + sigma(t) eps: schedules, readings of a denoiser, and the process made of both.

Knows no network and no solver. A new schedule or parameterisation is a class with the two methods asked for here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from maquette.contracts import Code, Condition, Network
from maquette.processes.chain import Curve, Even, Rise, Spacing, chain
from maquette.streams import Streams


class Schedule(Protocol):
    """How fast data dissolves: t = 0 is data (alpha 1, sigma 0), t = 1 is noise."""

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha(t) and sigma(t), in t's shape."""

    def times(self, rng: Streams) -> Tensor:
        """Training times [B]."""

    def grid(self, steps: int) -> Tensor:
        """Sampling times [steps + 1], from 1 down to 0."""


class Reading(Protocol):
    """How a network's output F becomes an estimate of x: skip * x_t + out * F (Karras 2022, eq. 7)."""

    def scales(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(skip, out). F regresses (x - skip * x_t) / out, so 1 / out^2 is the weight of the squared error of x."""


class View(Protocol):
    """What a network is shown in place of x_t and t, where that is not x_t and t themselves."""

    def show(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t [B,...] as the network sees it."""

    def hear(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The time as the network hears it, in t's shape: rising with t, finite at 0."""


@dataclass(frozen=True)
class Noise:
    """F estimates eps (Ho 2020): x = (x_t - sigma eps) / alpha."""

    def scales(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / alpha, -sigma / alpha


@dataclass(frozen=True)
class Clean:
    """F estimates x itself."""

    def scales(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha)


@dataclass(frozen=True)
class Velocity:
    """F estimates the velocity: alpha eps - sigma x of a variance-preserving path (Salimans & Ho 2022, app. D)."""

    def scales(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return alpha, -sigma


@dataclass(frozen=True)
class Balanced:
    """F estimates a blend of noise and data that has unit variance at every time (Karras 2022, table 1, any alpha).

    Args:
        spread: standard deviation of the data.
    """

    spread: float = 0.5

    def scales(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        whole = (alpha * self.spread).square() + sigma.square()
        return alpha * self.spread**2 / whole, sigma * self.spread / whole.sqrt()


@dataclass(frozen=True)
class Scaled:
    """x_t brought to unit variance, and a quarter of the log of its noise (Karras 2022, table 1: c_in and c_noise).

    Args:
        spread: standard deviation of the data.
        least: noise that is heard as none.
    """

    spread: float = 0.5
    least: float = 1e-4

    def show(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_t * ((alpha * self.spread).square() + sigma.square()).rsqrt()

    def hear(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (sigma / alpha).clamp(min=self.least).log() / 4


@dataclass(frozen=True)
class Cosine:
    """Variance-preserving, alpha = cos (Nichol & Dhariwal 2021, eq. 17), training times uniform.

    Args:
        offset: keeps the first steps from being too small to see.
        least: alpha never falls below it, so that eps can be divided out at t = 1 (their beta <= 0.999).
    """

    offset: float = 0.008
    least: float = 0.001

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        whole = math.cos(self.offset / (1 + self.offset) * math.pi / 2)
        alpha = (((t + self.offset) / (1 + self.offset) * (math.pi / 2)).cos() / whole).clamp(self.least, 1.0)
        return alpha, (1 - alpha * alpha).clamp(min=0).sqrt()

    def times(self, rng: Streams) -> Tensor:
        return rng.uniform()

    def grid(self, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1)


@dataclass(frozen=True)
class Stepped:
    """x_t as it is, and times in whole steps of a chain alone: the nearest one, or the last one passed.

    Args:
        total: steps of the chain.
        cut: the last one passed.
    """

    total: int = 1000
    cut: bool = False

    def show(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_t

    def hear(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        step = t.double() * self.total
        return ((step + 1e-9).floor() if self.cut else step.round()) / self.total


@dataclass(frozen=True)
class Betas:
    """DDPM's discrete chain of `total` steps (Ho 2020, section 4); time t is step t * total.

    Args:
        total: steps.
        curve: what each keeps of the data.
        spacing: which of them sampling visits. Where those are whole steps, a time between two is read at the nearer one.
        ends: the step that sampling ends with; 0 = the data. Above, a little noise is left in what is drawn.
    """

    total: int = 1000
    curve: Curve = field(default_factory=Rise)
    spacing: Spacing = field(default_factory=Even)
    ends: int = 0

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = chain(self.curve, self.total)
        if self.spacing.whole:
            step = (t * self.total).round().long().clamp(0, self.total)
            squared = table.kept.to(t.device)[step]
            return squared.sqrt().float(), (1 - squared).sqrt().float()
        ratio = self.spacing.ratio(t.double().cpu() * self.total, table).to(t.device)
        alpha = (1 + ratio.square()).rsqrt()
        return alpha.float(), (ratio * alpha).float()

    def times(self, rng: Streams) -> Tensor:
        return (rng.integers(self.total) + 1).float() / self.total

    def grid(self, steps: int) -> Tensor:
        """What the spacing visits, then the end; at most `total` steps. Between two steps of the chain in double precision."""
        if steps > self.total:
            raise ValueError(f"steps is {steps}; this chain has only {self.total}, nearest is {self.total}")
        visits = torch.cat([self.spacing.visits(steps, chain(self.curve, self.total)), torch.tensor([self.ends])])
        return (visits.float() if self.spacing.whole else visits) / self.total


@dataclass(frozen=True)
class Gaussian:
    """A schedule and a reading: the process that objective and solvers share.

    Args:
        schedule: alpha(t), sigma(t) and when to look.
        reading: what the network's output stands for.
        paid: the reading whose squared error is the loss, where it is another one: a network may estimate x and pay for
            the velocity that follows from it (Li & He 2025).
        cap: the weight of x's squared error is at most this; with `Noise` paid, min-SNR (Hang 2023, eq. 8).
        view: what the network is shown; None = x_t and t as they are.
        unit: pure noise is what the network sees with deviation 1, as published samplers begin, whatever sigma says.
    """

    schedule: Schedule
    reading: Reading
    paid: Reading | None = None
    cap: float = math.inf
    view: View | None = None
    unit: bool = False

    def times(self, rng: Streams) -> Tensor:
        """Training times [B]."""
        return self.schedule.times(rng)

    def grid(self, steps: int) -> Tensor:
        """Sampling times [steps + 1], from 1 down to 0."""
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        return self.schedule.grid(steps)

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at t, shaped to multiply `like` [B,...]."""
        alpha, sigma = self.schedule.levels(t)
        shape = (-1, *[1] * (like.dim() - 1))
        return alpha.reshape(shape), sigma.reshape(shape)

    def prior(self, shape: tuple[int, ...], rng: Streams, t: Tensor | None = None) -> Tensor:
        """Pure noise at time t [], 1 where none is said, [B, *shape]; what alpha(t) would keep of the data is forgotten."""
        noise = rng.normal(*shape)
        whole = t is None or bool(t > 1 - 1e-6)  # a shifted grid begins with 1 but for rounding
        alpha, sigma = self.levels(torch.ones(1, device=noise.device) if whole or t is None else t[None], noise)
        if not self.unit:
            return noise * sigma
        return noise if self.view is None else noise / self.view.show(torch.ones_like(sigma), alpha, sigma)

    def corrupt(self, x: Code, t: Tensor, rng: Streams) -> Tensor:
        """x [B,...] at time t [B]."""
        alpha, sigma = self.levels(t, x)
        return alpha * x + sigma * rng.normal(*x.shape[1:])

    def denoise(self, net: Network, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """The network's estimate of x, float32 [B,...]."""
        alpha, sigma = self.levels(t, x_t)
        skip, out = self.reading.scales(alpha, sigma)
        shown = x_t if self.view is None else self.view.show(x_t, alpha, sigma)
        return skip * x_t + out * net(shown, t=self.heard(t), cond=cond).float()

    def heard(self, t: Tensor) -> Tensor:
        """Times as the network hears them, in t's shape."""
        return (t if self.view is None else self.view.hear(t, *self.schedule.levels(t))).float()

    def when(self, ratio: Tensor) -> Tensor:
        """The time [B] at which sigma / alpha is `ratio` [B], at most 1: by halving, since it rises on every schedule."""
        low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
        for _ in range(24):  # float32 holds no more
            middle = (low + high) / 2
            alpha, sigma = self.schedule.levels(middle)
            early = sigma < ratio * alpha
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return high

    def noise(self, guess: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The eps that a guess of x implies: (x_t - alpha guess) / sigma; 0 where nothing has dissolved."""
        alpha, sigma = self.levels(t, x_t)
        return torch.where(sigma > 0, (x_t - alpha * guess) / sigma.clamp(min=1e-12), 0.0)

    def step(self, guess: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """From time t [B] to s [B] with the guess of x and the noise it implies held fixed (Song 2021, eq. 13)."""
        alpha, sigma = self.levels(s, x_t)
        return alpha * guess + sigma * self.noise(guess, x_t, t)

    def aim(self, x_t: Tensor, t: Tensor, x_s: Tensor, s: Tensor) -> Tensor:
        """The guess of x that `step` would take from x_t at time t [B] to x_s at s [B]."""
        (alpha_t, sigma_t), (alpha, sigma) = self.levels(t, x_t), self.levels(s, x_t)
        kept = sigma / sigma_t
        return (x_s - kept * x_t) / (alpha - kept * alpha_t)

    def average(self, x_t: Tensor, t: Tensor, s: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
        """x_s from x_t with the mean of two estimates of (x, eps), one at each end: the trapezoidal rule of

        x_s = x_t + (integral of x d alpha) + (integral of eps d sigma).
        """
        (alpha_t, sigma_t), (alpha, sigma) = self.levels(t, x_t), self.levels(s, x_t)
        (x, eps), (x_2, eps_2) = first, second
        return x_t + (alpha - alpha_t) * (x + x_2) / 2 + (sigma - sigma_t) * (eps + eps_2) / 2

    def heun(self, net: Network, x_t: Tensor, t: Tensor, s: Tensor, cond: Condition | None = None) -> Tensor:
        """x_s from x_t along a network's ODE, times [B] (Karras 2022, alg. 1); Euler's step where s is the data's end."""

        def look(at: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            guess = self.denoise(net, at, time, cond)
            return guess, self.noise(guess, at, time)

        first = look(x_t, t)
        x_s = self.step(first[0], x_t, t, s)
        _, sigma = self.levels(s, x_s)
        if not bool((sigma > 0).any()):
            return x_s
        return torch.where(sigma > 0, self.average(x_t, t, s, first, look(x_s, s)), x_s)

    def distance(self, guess: Tensor, x: Code, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of what is paid for, per row [B]."""
        _, out = (self.paid or self.reading).scales(*self.levels(t, x))
        weight = (1 / out.square().clamp(min=1e-8)).clamp(max=self.cap)
        return (weight * (guess - x).square()).flatten(1).mean(1)
