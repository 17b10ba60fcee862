"""A discriminator that judges patches, and a classifier of the same make: strided convolutions. Know no loss."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import Condition, Network


class _Ladder(Network):
    """Strided 4x4 convolutions, each of twice the channels (at most four times the first), a leaky ReLU after each."""

    edges = ("stem", "head")

    def __init__(self, inputs: int, width: int, layers: int):
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}; it must be 1 or more")
        widths = [width * 2 ** min(i, 2) for i in range(layers)]
        self.stem = nn.Conv2d(inputs, width, 4, stride=2, padding=1)
        self.steps = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(b, b) for b in widths[1:])  # one group per channel: instance normalisation
        self.outputs = widths[-1]

    def climb(self, x: Tensor, seen: list[Tensor] | None) -> Tensor:
        """[B,C,H,W] -> [B,outputs,h,w]; each layer's features are appended to `seen`."""
        h = F.leaky_relu(self.stem(x), 0.2)
        for step, norm in zip(self.steps, self.norms, strict=True):
            if seen is not None:
                seen.append(h)
            h = step(h)
            h = F.leaky_relu(norm(h) if h[0, 0].numel() > 1 else h, 0.2)
        if seen is not None:
            seen.append(h)
        return h


class PatchDiscriminator(_Ladder):
    """Images [B,C,H,W] -> a logit per overlapping patch [B,h,w]: high is real (Isola 2017, sec. 3.2.2, PatchGAN).

    A patch is 5 * 2^layers - 2 pixels wide, however large the image. Features are normalised over each image (instance
    normalisation, in place of the paper's over the batch), so a row's logits depend on that row alone. `state`, a list, receives
    every layer's features.

    Args:
        channels: C.
        width: channels of the first layer.
        layers: strided convolutions.
        told: channels of a condition's field, laid beside the image (pix2pix); 0 = none.
    """

    def __init__(self, channels: int, width: int = 32, layers: int = 2, told: int = 0):
        super().__init__(channels + told, width, layers)
        self.told = told
        self.head = nn.Conv2d(self.outputs, 1, 3, padding=1)

    def forward(
        self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: list[Tensor] | None = None
    ) -> Tensor:
        if self.told:
            if cond is None or cond.field is None:
                raise ValueError(f"this discriminator must be told a field of {self.told} channels, and was told nothing")
            x = torch.cat([x, cond.field], 1)
        return self.head(self.climb(x, state))[:, 0]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Stays eager: its callers may differentiate twice."""


class PatchClassifier(_Ladder):
    """Images [B,C,H,W] -> logits [B,classes]; `state`, a list, receives every layer's features.

    Trained on the data's own labels, its features measure how unlike two images are (after Zhang 2018, whose network was
    trained on ImageNet).

    Args:
        channels: C.
        classes: labels.
        width: channels of the first layer.
        layers: strided convolutions.
    """

    def __init__(self, channels: int, classes: int, width: int = 32, layers: int = 2):
        super().__init__(channels, width, layers)
        self.head = nn.Linear(16 * self.outputs, classes)

    def forward(
        self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: list[Tensor] | None = None
    ) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.climb(x, state), 4).flatten(1))


def unlike(net: Network, x: Tensor, y: Tensor) -> Tensor:
    """How unlike two images are in a network's eyes, [B] (Zhang 2018, LPIPS, eq. 1, all weights 1).

    Every layer's features, a unit vector at each place; their squared distances, averaged over places and summed over layers.
    The gradient reaches y alone.
    """
    first: list[Tensor] = []
    second: list[Tensor] = []
    with torch.no_grad():
        net(x, state=first)
    net(y, state=second)
    pairs = zip(first, second, strict=True)
    return torch.stack(
        [(F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean((1, 2)) for a, b in pairs]
    ).sum(0)
