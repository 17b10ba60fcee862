"""Twice and half the resolution through a binomial low-pass filter, so that no frequency folds over. [B,C,H,W] in and out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Fir(nn.Module):
    """Each channel through the filter [1, 3, 3, 1] both ways (Zhang 2019; Karras 2020, sec. 2 and appendix B).

    Args:
        padding: pixels of nothing on every side; the filter takes three of a side away.
        stride: 2 keeps every other pixel.
        gain: of the filter; 4 where three in four pixels of the input are empty.
    """

    kernel: Tensor

    def __init__(self, padding: int, stride: int = 1, gain: float = 1.0):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", (gain * taps[:, None] * taps)[None, None], persistent=False)
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, 4, 4)
        if self.stride == 1:
            return F.conv2d(x, kernel, None, 1, self.padding, 1, channels)
        with torch.autocast(x.device.type, enabled=False):  # on CPUs bfloat16 takes 17 times as long backwards
            return F.conv2d(x.float(), kernel, None, self.stride, self.padding, 1, channels).to(x.dtype)


class Enlarge(nn.Module):
    """Twice the size: [B,C,H,W] -> [B,C,2H,2W]. Away from the edge, the filter on zero-stuffed pixels is bilinear."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
