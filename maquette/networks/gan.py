"""The two players of a conditional GAN around any body that maps vectors to images or images to vectors. Know no loss."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import Condition, Network


class ResidualMLP(Network):
    """Vectors [B,inputs] -> [B,outputs]: residual blocks without normalisation, each starting as its skip alone.

    Args:
        width: hidden width.
        depth: residual blocks of two layers each.
    """

    edges = ("stem", "head")

    def __init__(self, inputs: int, outputs: int, width: int, depth: int = 2):
        super().__init__()
        self.stem, self.head = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, width))
            for _ in range(depth)
        )
        for block in self.blocks:
            nn.init.zeros_(list(block.parameters())[-2])

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        h = self.stem(x.flatten(1))
        for block in self.blocks:
            h = h + block(h)
        return self.head(F.leaky_relu(h, 0.2))


class Generator(Network):
    """Noise [B,latent] and what it is told -> images [B,C,H,W], or points, in -1..1.

    Ends in tanh, which reaches flat black and white without noise: measured on digits, a linear end leaves speckle.

    Args:
        body: vectors [B, latent + 32 if told] -> anything of C * H * W numbers per row.
        shape: (C, H, W) of the images, or (D,) of points.
        latent: width of the noise.
        told: width of the condition vector; 0 = unconditional.
    """

    edges = ("embed",)
    embedding = 32

    def __init__(self, body: Network, shape: tuple[int, ...], latent: int, told: int = 0):
        super().__init__()
        self.body, self.shape, self.latent = body, tuple(shape), latent
        self.embed = nn.Linear(told, self.embedding) if told else None

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        if self.embed is not None:
            x = torch.cat([x, self.embed(_vector(cond)) * math.sqrt(self.embed.in_features)], 1)
        return self.body(x).reshape(-1, *self.shape).tanh()


class Discriminator(Network):
    """Images [B,C,H,W] and what they were told -> one logit each, [B]: high is real. Projection of the condition (Miyato 2018).

    Args:
        body: images -> features [B,features].
        features: their number.
        told: width of the condition vector; 0 = unconditional.
    """

    edges = ("head", "embed")

    def __init__(self, body: Network, features: int, told: int = 0):
        super().__init__()
        self.body = body
        self.head = nn.Linear(features, 1)
        self.embed = nn.Linear(told, features, bias=False) if told else None

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        h = self.body(x)
        logit = self.head(h)[:, 0]
        if self.embed is not None:
            logit = logit + (self.embed(_vector(cond)) * h).sum(1)
        return logit

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Stays eager: gradient penalties differentiate twice, which compiled graphs do not support."""


def _vector(cond: Condition | None) -> Tensor:
    if cond is None or cond.vector is None:
        raise ValueError("this network must be told a condition vector, and was told nothing")
    return cond.vector
