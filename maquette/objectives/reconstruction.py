"""Rebuild data through a bottleneck: distortion plus beta times rate. Knows neither the bottleneck nor the likelihood.

Roles: `codec` (a trainable codec: squeeze, nats) and `prior` (-> moments of the latent, given the condition).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Logs, Objective, phase
from maquette.nn.densities import normal_colour, normal_nats
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Reconstruction(Objective):
    """The evidence lower bound, -log p(x) <= E_q[-log p(x | z)] + KL(q(z | x) || p(z)) (Kingma & Welling 2014, eq. 3).

    Args:
        beta: weight of the rate while training (Higgins 2017); scores always weigh it 1.
        draws: posterior draws per row that a score averages.
    """

    bound = "ELBO"

    def __init__(self, beta: float = 1.0, draws: int = 4):
        super().__init__()
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta is {beta}; it must be 0 or more, and 1 is the likelihood bound")
        self.beta, self.draws = beta, draws

    @phase("codec", "prior")
    def rebuild(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Nats per dimension of distortion + beta * rate."""
        x = system.encode(batch)
        codec: Any = system.nets["codec"]
        prior = system.nets["prior"](x, cond=system.condition(batch))
        z, rate = codec.squeeze(x, rng, prior)
        dims = x[0].numel()
        distortion, rate = codec.nats(x, z).mean() / dims, rate.mean() / dims
        bits = (distortion + rate) / math.log(2)
        return distortion + self.price(rate, dims, step), {"bits": bits, "rate": rate / math.log(2)}

    def price(self, rate: Tensor, dims: int, step: int) -> Tensor:
        """What a mean rate, in nats per dimension, costs at a step of training."""
        return self.beta * rate

    @torch.no_grad()
    def score(self, system: System, batch: Batch, rng: Streams) -> Tensor:
        """The ELBO as nats [B], given the batch's own condition; a mean over `draws` posterior draws, KL in closed form."""
        x, codec = system.encode(batch), system.steady("codec")
        prior = system.steady("prior")(x, cond=system.condition(batch))
        total = x.new_zeros(len(x))
        for _ in range(self.draws):
            z, rate = codec.squeeze(x, rng, prior)
            total += (codec.nats(x, z) + rate) / self.draws
        return total

    @torch.no_grad()
    def importance(self, system: System, batch: Batch, rng: Streams, samples: int = 100) -> Tensor:
        """The importance-weighted bound as nats [B]: -log 1/k sum p(x | z) p(z) / q(z | x), k = `samples` (Burda 2016, eq. 8).

        Never looser than the ELBO in expectation, and falls to -log p(x) as k grows.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}; it must be 1 or more")
        x, codec = system.encode(batch), system.steady("codec")
        prior = system.steady("prior")(x, cond=system.condition(batch))
        mean, logvar = codec.posterior(x)
        posterior = torch.stack([mean, logvar], 1)
        weights = []
        for _ in range(samples):
            z = normal_colour(rng.normal(*mean.shape[1:]), posterior)
            weights.append(normal_nats(z, posterior) - normal_nats(z, prior) - codec.nats(x, z))
        return math.log(samples) - torch.stack(weights).logsumexp(0)

    @torch.no_grad()
    def represent(self, system: System, batch: Batch, rng: Streams | None = None) -> Tensor:
        """The latent that stands for each row [B,D,*S]: the posterior's mean, or with `rng` a draw from the posterior."""
        mean, logvar = system.steady("codec").posterior(system.encode(batch))
        return mean if rng is None else mean + (0.5 * logvar).exp() * rng.normal(*mean.shape[1:])

    @torch.no_grad()
    def rendered(self, system: System, z: Tensor) -> Tensor:
        """The data that latents [B,D,*S] stand for: the decoder's expectation, as the system's codec decodes it."""
        return system.decode(system.steady("codec").decode(z))

    @torch.no_grad()
    def active_units(self, system: System, batch: Batch, threshold: float = 0.01) -> Tensor:
        """bool[D, *S]: latent units whose posterior mean varies by more than `threshold` over the batch (Burda 2016, 5.2)."""
        return system.steady("codec").encode(system.encode(batch)).var(0) > threshold


class Capacity(Reconstruction):
    """beta-VAE with a growing capacity: distortion + beta * |rate - C| (Burgess 2018, eq. 8, whose gamma is this beta).

    C rises in a straight line from 0 to `capacity`, then stays: a function of the step alone, so a resumed run goes on exactly.

    Args:
        beta: weight of the rate's distance from C.
        capacity: the C at the end, in nats per row.
        anneal: steps over which C rises; 0 = it is there from the first step.
    """

    def __init__(self, beta: float, capacity: float, anneal: int, draws: int = 4):
        super().__init__(beta, draws)
        if not (math.isfinite(capacity) and capacity > 0):
            raise ValueError(f"capacity is {capacity}; it must be above 0 nats")
        if anneal < 0:
            raise ValueError(f"anneal is {anneal}; it must be 0 steps or more, nearest is 0")
        self.capacity, self.anneal = capacity, anneal

    def allowed(self, step: int) -> float:
        """C at a step, in nats per row."""
        return self.capacity * min(1.0, step / self.anneal) if self.anneal else self.capacity

    def price(self, rate: Tensor, dims: int, step: int) -> Tensor:
        return self.beta * (rate - self.allowed(step) / dims).abs()
