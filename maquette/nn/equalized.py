"""Layers at an equalised learning rate: unit normal weights, scaled by their fan-in when used (Karras 2018, sec. 4.1).

Adam moves every weight by about its rate, so weights of equal size learn equally fast, whatever a layer's width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GAIN = math.sqrt(2)  # keeps the variance through a leaky ReLU


class Linear(nn.Module):
    """[..., I] -> [..., O].

    Args:
        bias: what every bias begins as.
        gain: of the outputs; GAIN before a leaky ReLU.
        rate: multiplier of the learning rate (Karras 2019, appendix C: 0.01 in the mapping network).
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, gain: float = 1.0, rate: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale, self.offset = gain * rate / math.sqrt(inputs), gain * rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.offset)


class Conv(nn.Module):
    """[B,I,H,W] -> [B,O,H',W'] with an odd kernel; keeps the size at stride 1 where padding is left to it.

    Args:
        side: of the kernel, in pixels.
        padding: in pixels; None = half the kernel.
        bias: learn an offset per channel.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int = 3,
        gain: float = 1.0,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.gain, self.stride = gain / math.sqrt(inputs * side**2), gain, stride
        self.padding = side // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.gain
        return F.conv2d(x, self.weight * self.scale, bias, self.stride, self.padding)
