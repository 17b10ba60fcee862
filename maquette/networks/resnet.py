"""Residual convolutions from an image to a vector and back, for any height and width. Knows neither codes nor likelihoods."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import Condition, Network


class ResBlock(nn.Module):
    """Two pre-activated 3x3 convolutions beside a skip, [B,C,H,W] -> [B,D,H,W] (He 2016). Starts as its skip alone.

    Args:
        norm: group normalisation before each convolution; discriminators go without (Huang 2024, R3GAN).
    """

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.0, norm: bool = True):
        super().__init__()
        groups = next(g for g in (8, 4, 2, 1) if inputs % g == 0 and outputs % g == 0)
        self.norm1 = nn.GroupNorm(groups, inputs) if norm else nn.Identity()
        self.norm2 = nn.GroupNorm(groups, outputs) if norm else nn.Identity()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


def ladder(shape: tuple[int, int, int], width: int, fold: int) -> list[tuple[int, int, int]]:
    """(channels, height, width) per resolution: halved, rounding up, while both sides are 8 or more; channels double twice.

    The first rung is the image with `fold` x `fold` pixels folded into channels.
    """
    height, across = -(-shape[1] // fold), -(-shape[2] // fold)
    rungs = [(width, height, across)]
    while min(height, across) >= 8:
        height, across = (height + 1) // 2, (across + 1) // 2
        rungs.append((width * 2 ** min(len(rungs), 2), height, across))
    return rungs


class ResNetEncoder(Network):
    """Images [B,C,H,W] -> vectors [B,outputs].

    Args:
        shape: (C, H, W) of the images.
        width: channels at the first rung.
        depth: residual blocks per resolution.
        pool: keep the maximum of each channel in every one of pool x pool parts of the image, so that the vector hardly says
            where in a part something is; 0 = keep all.
    """

    edges = ("stem", "head")

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        width: int,
        depth: int = 1,
        dropout: float = 0.0,
        norm: bool = True,
        fold: int = 1,
        pool: int = 0,
    ):
        super().__init__()
        self.fold = fold
        rungs = ladder(shape, width, fold)
        self.odd = (0, -shape[2] % fold, 0, -shape[1] % fold)
        self.stem = nn.Conv2d(fold**2 * shape[0], width, 3, padding=1)
        layers: list[nn.Module] = []
        for i, (channels, _, _) in enumerate(rungs):
            layers += [ResBlock(channels, channels, dropout, norm) for _ in range(depth)]
            if i + 1 < len(rungs):
                layers.append(nn.Conv2d(channels, rungs[i + 1][0], 3, stride=2, padding=1))
        self.body = nn.Sequential(*layers)
        channels, height, across = rungs[-1]
        self.norm = nn.GroupNorm(1, channels) if norm else nn.Identity()
        self.pool = nn.AdaptiveMaxPool2d(pool) if pool else nn.Identity()
        self.head = nn.Linear(channels * (pool**2 or height * across), outputs)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        folded = F.pixel_unshuffle(F.pad(x, self.odd), self.fold)
        return self.head(self.pool(F.silu(self.norm(self.body(self.stem(folded))))).flatten(1))


class Resize(nn.Module):
    """A 3x3 convolution, then nearest-neighbour resizing to a given (height, width): a quarter of the work of the other order."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]):
        super().__init__()
        self.size, self.conv = size, nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), self.size)


class ResNetDecoder(Network):
    """Vectors [B,inputs] -> images [B,C,H,W]: the encoder's ladder climbed back.

    Args:
        shape: (C, H, W) of what comes out; C may be a likelihood's parameters per pixel.
        width: channels at the first rung.
        depth: residual blocks per resolution.
    """

    edges = ("head",)

    def __init__(
        self,
        inputs: int,
        shape: tuple[int, int, int],
        width: int,
        depth: int = 1,
        dropout: float = 0.0,
        norm: bool = True,
        fold: int = 1,
    ):
        super().__init__()
        self.fold = fold
        rungs = ladder(shape, width, fold)[::-1]
        self.start, self.size = rungs[0], shape[1:]
        self.stem = nn.Linear(inputs, rungs[0][0] * rungs[0][1] * rungs[0][2])
        layers: list[nn.Module] = []
        for i, (channels, _, _) in enumerate(rungs):
            layers += [ResBlock(channels, channels, dropout, norm) for _ in range(depth)]
            if i + 1 < len(rungs):
                layers.append(Resize(channels, rungs[i + 1][0], rungs[i + 1][1:]))
        self.body = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(1, width) if norm else nn.Identity()
        self.head = nn.Conv2d(width, fold**2 * shape[0], 3, padding=1)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        image = F.pixel_shuffle(self.head(F.silu(self.norm(self.body(self.stem(x).unflatten(1, self.start))))), self.fold)
        return image[..., : self.size[0], : self.size[1]]
