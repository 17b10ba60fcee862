"""The likelihood of a Gaussian process's denoiser, by following its probability-flow ODE from the data to the noise.

Knows the process and how codes are spaced, no network and no objective.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maquette.contracts import Code, Condition, Network
from maquette.processes.gaussian import Gaussian
from maquette.streams import Streams


@dataclass(frozen=True)
class Density(Gaussian):
    """A Gaussian process that can say what a code costs (Song 2021, score SDE, sec. 4.3 and app. D.2).

    In y = x_t / alpha and u = log(sigma / alpha) the ODE is dy/du = y - x, x the denoiser's estimate, whatever the schedule;
    so d log p / du = trace(dx/dy) - D along it. Classical Runge-Kutta in even steps of u.

    Args:
        values: how many levels a code in -1 .. 1 has; 0 = codes are continuous. With levels, the code is sent as y at noise
            `least`, then which level was meant (Kingma 2021, eq. 8): a bound on -log P, with the ODE's own density of y.
        steps: of the ODE, four looks each.
        whole: the trace itself, a look back per dimension, instead of Hutchinson's unbiased estimate, one in all.
        least: noise at which the ODE begins; 0 = 0.002, or a quarter of the distance between two levels.
        most: noise at which nothing of the data is left: y is N(0, most^2) from there.
    """

    values: int = 0
    steps: int = 16
    whole: bool = False
    least: float = 0.0
    most: float = 80.0

    @property
    def bound(self) -> str:
        """What `nats` is of the true likelihood."""
        return "ODE, Gaussian dequantisation" if self.values else "exact"

    @property
    def begin(self) -> float:
        """The noise that the ODE begins with."""
        return self.least or (0.25 * 2 / max(1, self.values - 1) if self.values else 0.002)

    def nats(self, net: Network, x: Code, cond: Condition | None, rng: Streams) -> Tensor:
        """-log p(x) in nats [B]; with levels, a bound on -log P of the discrete code."""
        if not self.values:
            return -self.log_density(net, x, cond, rng)
        noise = rng.normal(*x.shape[1:])
        y = x + self.begin * noise
        sent = -(noise.square() / 2 + math.log(self.begin * math.sqrt(2 * math.pi))).flatten(1).sum(1)  # log q(y | x)
        return sent - self.log_density(net, y, cond, rng) - self._meant(x, y)

    def _meant(self, x: Code, y: Tensor) -> Tensor:
        """log P of the levels x given y at the least noise, every level as likely as another before: [B]."""
        grid = torch.linspace(-1, 1, self.values, device=x.device)
        logits = -(y[..., None] - grid).square() / (2 * self.begin**2)
        index = ((x + 1) / 2 * (self.values - 1)).round().long()
        return logits.log_softmax(-1).gather(-1, index[..., None]).flatten(1).sum(1)

    def log_density(self, net: Network, y: Tensor, cond: Condition | None, rng: Streams) -> Tensor:
        """log p(y) [B] of y [B,...] at noise `begin`, by the ODE up to `most`."""
        size = y[0].numel()
        probe = rng.uniform(*y.shape[1:]).sub(0.5).sign() if not self.whole else None
        ends = math.log(self.begin), math.log(self.most)
        step, gained = (ends[1] - ends[0]) / self.steps, torch.zeros(len(y), device=y.device)
        for k in range(self.steps):
            u, slopes, gains = ends[0] + k * step, [torch.zeros_like(y)], []
            for share in (0.0, 0.5, 0.5, 1.0):
                slope, gain = self._slope(net, y + share * step * slopes[-1], u + share * step, cond, probe)
                slopes.append(slope)
                gains.append(gain)
            _, a, b, c, d = slopes
            y = y + step / 6 * (a + 2 * b + 2 * c + d)
            gained = gained + step / 6 * (gains[0] + 2 * gains[1] + 2 * gains[2] + gains[3])
        prior = -(y / self.most).square().flatten(1).sum(1) / 2 - size * math.log(self.most * math.sqrt(2 * math.pi))
        return prior + gained

    @torch.enable_grad()
    def _slope(self, net: Network, y: Tensor, u: float, cond: Condition | None, probe: Tensor | None) -> tuple[Tensor, Tensor]:
        """dy/du [B,...] and -d log p/du [B] at y."""
        t = self.when(torch.full((len(y),), math.exp(u), device=y.device))
        y = y.detach().requires_grad_()
        alpha, _ = self.levels(t, y)
        guess = self.denoise(net, alpha * y, t, cond)
        probes = [probe] if probe is not None else torch.eye(y[0].numel(), device=y.device).reshape(-1, *y.shape[1:])
        trace = torch.zeros(len(y), device=y.device)
        for v in probes:
            (back,) = torch.autograd.grad((guess * v).sum(), y, retain_graph=True)
            trace = trace + (back * v).flatten(1).sum(1)
        return (y - guess).detach(), y[0].numel() - trace
