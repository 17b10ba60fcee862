"""Residual perceptrons between rows of any shape: of points, of small images, of latents. Know neither codes nor losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maquette.contracts import Condition, Network
from maquette.networks.gan import ResidualMLP
from maquette.nn.embed import fourier


class Perceptron(Network):
    """Rows [B,*inputs] -> [B,*outputs], perhaps at a time t [B] and told a vector.

    Args:
        inputs: a row's shape.
        outputs: the shape of what comes out.
        width: hidden width.
        depth: residual blocks of two layers each.
        waves: also see sin and cos of the inputs at these frequencies; bare inputs are learnt slowly where their detail is
            fine (Tancik 2020).
        told: width of the condition vector; 0 = unconditional.
        times: numbers that stand for the time, where there is one; 0 = none.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        width: int,
        depth: int = 1,
        waves: tuple[float, ...] = (),
        told: int = 0,
        times: int = 0,
    ):
        super().__init__()
        self.outputs, self.waves, self.told, self.times = tuple(outputs), tuple(waves), told, times
        count = math.prod(inputs) * (1 + 2 * len(self.waves)) + told + times
        self.body = ResidualMLP(count, math.prod(outputs), width, depth)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        x = x.flatten(1)
        parts = [x, *(wave(x * frequency) for frequency in self.waves for wave in (torch.sin, torch.cos))]
        if self.told:
            if cond is None or cond.vector is None:
                raise ValueError("this network must be told a condition vector, and was told nothing")
            parts.append(cond.vector)
        if self.times:
            assert t is not None, "a network with times is asked at a time"
            parts.append(fourier(t, self.times, scale=2 * math.pi, slowest=0.05))  # from 1 to 20 / (2 pi) periods in 0..1
        return self.body(torch.cat(parts, 1)).reshape(-1, *self.outputs)
