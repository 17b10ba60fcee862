"""Strided convolutions from a vector to an image and back, with batch normalisation (Radford 2016, DCGAN). Know no loss."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import Condition, Network

Shape = tuple[int, int, int]


def ladder(shape: Shape, width: int) -> list[Shape]:
    """(channels, height, width) of each halving, rounded up: twice at least, then while both sides are above 4."""
    height, across = shape[1:]
    rungs: list[Shape] = []
    while len(rungs) < 2 or min(height, across) > 4:
        height, across = (height + 1) // 2, (across + 1) // 2
        rungs.append((width * 2 ** min(len(rungs), 2), height, across))
    return rungs


def _drawn(net: nn.Module) -> None:
    """Weights normal with deviation 0.02, gains about 1 (Radford 2016, sec. 4)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)


class DeconvDecoder(Network):
    """Vectors [B,inputs] -> [B,C,H,W]: the vector as a small image, doubled by transposed convolutions.

    Batch normalisation and ReLU after every layer but the last. Sampling uses the running statistics, so that an image does
    not depend on the batch it is drawn in.

    Args:
        shape: (C, H, W) of the images.
        width: channels at half the image's resolution; they double downwards, twice.
    """

    edges = ("stem", "head")

    def __init__(self, inputs: int, shape: Shape, width: int):
        super().__init__()
        *higher, lowest = ladder(shape, width)
        self.start, self.size = lowest, shape[1:]
        self.stem = nn.Linear(inputs, lowest[0] * lowest[1] * lowest[2], bias=False)
        self.first = nn.BatchNorm2d(lowest[0])
        layers: list[nn.Module] = []
        self.sizes, below = [rung[1:] for rung in higher[::-1]], lowest[0]
        for channels, _, _ in higher[::-1]:
            up = nn.ConvTranspose2d(below, channels, 4, stride=2, padding=1, bias=False)
            layers.append(nn.Sequential(up, nn.BatchNorm2d(channels), nn.ReLU()))
            below = channels
        self.layers = nn.ModuleList(layers)
        self.head = nn.ConvTranspose2d(below, shape[0], 4, stride=2, padding=1)
        _drawn(self)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        h = F.relu(self.first(self.stem(x).unflatten(1, self.start)))
        for layer, (height, across) in zip(self.layers, self.sizes, strict=True):
            h = layer(h)[..., :height, :across]  # an odd side is cut from the doubled one
        return self.head(h)[..., : self.size[0], : self.size[1]]


class ConvEncoder(Network):
    """[B,C,H,W] -> features [B,outputs]: halved by strided convolutions, leaky ReLUs; `outputs` numbers in all.

    Args:
        shape: (C, H, W) of the images.
        width: channels after the first layer; they double downwards, twice.
        norm: batch normalisation after every layer but the first; critics whose gradient is penalised row by row go without.
    """

    edges = ("stem",)

    def __init__(self, shape: Shape, width: int, norm: bool = True):
        super().__init__()
        found = ladder(shape, width)
        self.stem = nn.Conv2d(shape[0], found[0][0], 4, stride=2, padding=1)
        layers: list[nn.Module] = []
        for (inside, _, _), (outside, _, _) in pairwise(found):
            down = nn.Conv2d(inside, outside, 4, stride=2, padding=1, bias=not norm)
            layers.append(nn.Sequential(down, nn.BatchNorm2d(outside) if norm else nn.Identity()))
        self.layers = nn.ModuleList(layers)
        channels, height, across = found[-1]
        self.outputs = channels * height * across
        _drawn(self)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        h = F.leaky_relu(self.stem(_even(x)), 0.2)
        for layer in self.layers:
            h = F.leaky_relu(layer(_even(h)), 0.2)
        return h.flatten(1)


def _even(x: Tensor) -> Tensor:
    """With a row and column of nothing where a side is odd."""
    return F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
