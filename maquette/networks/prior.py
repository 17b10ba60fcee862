"""Gaussian priors over a latent, learned per condition or fixed. Know neither codec nor objective."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maquette.contracts import Condition, Network


class StandardNormal(Network):
    """N(0, 1) whatever the condition: anything of B rows -> means and log-variances [B, 2 D, *S], all zero.

    Args:
        latent: (D, *S), a row's latent shape.
    """

    def __init__(self, latent: tuple[int, ...]):
        super().__init__()
        self.latent = tuple(latent)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        return torch.zeros(len(x), 2 * self.latent[0], *self.latent[1:], device=x.device)


class ConditionalNormal(Network):
    """A diagonal Gaussian whose moments are linear in the condition vector: one learned Gaussian per class.

    `forward`: anything of B rows (only its length is read), cond.vector [B,D'] -> means and log-variances [B, 2 D].

    Args:
        latent: (D,), a row's latent shape.
        told: D', the condition vector's width.
    """

    edges = ("moments",)

    def __init__(self, latent: tuple[int], told: int):
        super().__init__()
        self.latent = tuple(latent)
        self.moments = nn.Linear(told, 2 * latent[0])
        with torch.no_grad():  # classes start apart in their means, together in their variances
            self.moments.weight[latent[0] :].zero_()
            self.moments.bias.zero_()

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        if cond is None or cond.vector is None:
            raise ValueError("this prior must be told a condition vector, and was told nothing")
        return 4 * self.moments(cond.vector)  # moments move by whole units while weights move by their learning rate
