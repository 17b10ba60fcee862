"""Images as numbers: continuous in -1..1 for densities on pixels, or a sequence of grey levels for discrete models."""

from __future__ import annotations

import torch
from torch import Tensor

from maquette.contracts import Code, Codec
from maquette.nn.degrade import Coarse


class Pixels(Codec):
    """float[B,C,H,W] in 0..1 <-> float[B,C,H,W] in -1..1. Decoding rounds to the data's own grey levels.

    Args:
        levels: distinct values per channel of the data.
    """

    def __init__(self, levels: int = 256):
        super().__init__()
        self.levels = levels

    def encode(self, data: Tensor) -> Code:
        return data * 2 - 1

    def decode(self, code: Code) -> Tensor:
        return ((code + 1) / 2 * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)


class CoarsePixels(Pixels):
    """As `Pixels`, of pictures made smaller first: float[B,C,H,W] in 0..1 -> float[B,C,h,w] in -1..1 -> float[B,C,h,w] in 0..1.

    Args:
        coarse: how much smaller.
        levels: distinct values per channel of the data.
    """

    lossy = True

    def __init__(self, coarse: Coarse, levels: int = 256):
        super().__init__(levels)
        self.coarse = coarse

    def encode(self, data: Tensor) -> Code:
        return super().encode(self.coarse.of(data))


class Levels(Codec):
    """float[B,C,H,W] in 0..1 <-> int64[B,T] grey levels in raster order, channels innermost: T = H * W * C.

    Args:
        shape: (C, H, W) of the images.
        levels: distinct values per channel; `levels` itself is the symbol that begins a sequence.
    """

    def __init__(self, shape: tuple[int, int, int], levels: int = 256):
        super().__init__()
        self.shape, self.levels, self.bos = tuple(shape), levels, levels
        self.length = shape[0] * shape[1] * shape[2]

    def encode(self, data: Tensor) -> Code:
        return (data * (self.levels - 1)).round().long().permute(0, 2, 3, 1).flatten(1)

    def decode(self, code: Code) -> Tensor:
        channels, height, width = self.shape
        image = code.clamp(0, self.levels - 1).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        return image.to(torch.float32) / (self.levels - 1)
