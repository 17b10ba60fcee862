"""Gaussian priors over a latent, learned per condition or fixed. Know neither codec nor objective."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maquette.contracts import Condition, Network


class StandardNormal(Network):
    """N(0, 1) whatever the condition: anything of B rows -> moments [B,2,D,*S], all zero.

    Args:
        latent: (D, *S), a row's latent shape.
    """

    def __init__(self, latent: tuple[int, ...]):
        super().__init__()
        self.latent = tuple(latent)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        return torch.zeros(len(x), 2, *self.latent, device=x.device)


class ConditionalNormal(Network):
    """A Gaussian with full covariance for every class, its moments linear in the condition vector.

    `forward`: anything of B rows (only its length is read), cond.vector [B,told] -> moments [B,2+D,D] (nn/densities.py).

    Args:
        latent: D, the numbers of a row's latent.
        told: the condition vector's width.
    """

    edges = ("moments",)

    def __init__(self, latent: int, told: int):
        super().__init__()
        self.latent = latent
        self.moments = nn.Linear(told, (2 + latent) * latent)
        with torch.no_grad():  # classes start apart in their means, together in the rest
            self.moments.weight[latent:].zero_()
            self.moments.bias.zero_()

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        if cond is None or cond.vector is None:
            raise ValueError("this prior must be told a condition vector, and was told nothing")
        moments = 4 * self.moments(cond.vector)  # they move by whole units while weights move by their learning rate
        return moments.unflatten(1, (-1, self.latent))
