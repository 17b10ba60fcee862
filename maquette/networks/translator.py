"""Image to image: a U-Net with skips that forgets at random, and residual blocks between strided convolutions. Know no loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import Condition, Network
from maquette.nn.conv import zeroed


def _instance(channels: int) -> nn.GroupNorm:
    """Each channel of each image to zero mean and unit variance (Ulyanov 2016): an image does not depend on its batch."""
    return nn.GroupNorm(channels, channels)


class SkipTranslator(Network):
    """A source image, told as the condition's field, -> an image [B,C,H,W] in -1..1 (Isola 2017, sec. 3.2.1 and appendix).

    A U-Net of 4x4 convolutions; every layer on the way up sees its mirror on the way down. Its noise is dropout, in sampling
    too: x [B,latent] says by its signs which activations of the lowest layers on the way up are kept; 0 keeps all at half size.

    Args:
        shape: (C, H, W) of source and image; inside, their last row and column is repeated until 2^layers divides the sides.
        width: channels of the first layer; they double downwards, twice.
        layers: strided convolutions.
        dropped: layers on the way up that have dropout.
    """

    edges = ("down.0", "head")

    def __init__(self, shape: tuple[int, int, int], width: int = 32, layers: int = 4, dropped: int = 2):
        super().__init__()
        channels, height, across = shape
        self.size, self.dropped = (height, across), min(dropped, layers - 1)
        self.odd = (0, -across % 2**layers, 0, -height % 2**layers)
        height, across = height + self.odd[3], across + self.odd[1]
        widths = [width * 2 ** min(i, 2) for i in range(layers)]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in zip([channels, *widths], widths, strict=False))
        self.norms = nn.ModuleList([nn.Identity(), *map(_instance, widths[1:-1]), nn.Identity()][:layers])
        beside = [widths[-1], *[2 * w for w in widths[-2:0:-1]]]  # what comes in: from below, and across
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in zip(beside, widths[-2::-1], strict=True))
        self.smooth = nn.ModuleList(map(_instance, widths[-2::-1]))
        self.head = nn.ConvTranspose2d(2 * width, channels, 4, 2, 1)
        sizes = [(height >> layers - 1 - i) * (across >> layers - 1 - i) for i in range(self.dropped)]
        self.places = [w * size for w, size in zip(widths[-2::-1], sizes, strict=False)]
        self.latent = sum(self.places)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        if cond is None or cond.field is None:
            raise ValueError("this network must be told a source image as a field, and was told nothing")
        h, kept = F.pad(cond.field, self.odd, mode="replicate"), []
        for i, (down, norm) in enumerate(zip(self.down, self.norms, strict=True)):
            h = norm(down(h if i == 0 else F.leaky_relu(h, 0.2)))
            kept.append(h)
        kept.pop()
        signs = x.sign().split(self.places, 1) if self.dropped else ()
        for i, (up, norm) in enumerate(zip(self.up, self.smooth, strict=True)):
            h = norm(up(F.relu(h)))
            if i < self.dropped:
                h = h * (1 + signs[i].view_as(h))
            h = torch.cat([h, kept.pop()], 1)
        return self.head(F.relu(h)).float().tanh()[..., : self.size[0], : self.size[1]]


class ResidualTranslator(Network):
    """Images [B,C,H,W] -> images of the other kind, about -1..1 (Zhu 2017, appendix; Johnson 2016).

    It says what to add to its input, at first nothing: a translation starts as the image itself, so that what it shows is kept
    unless the game says otherwise. What leaves -1..1 counts for a tenth, so that paper can be as white as the original's and
    still be drawn upon. (The paper's ends in tanh and starts anywhere.)

    Args:
        channels: C.
        width: channels at the highest resolution; they double downwards.
        blocks: residual blocks at the lowest.
        layers: strided convolutions.
    """

    edges = ("stem", "head")

    def __init__(self, channels: int, width: int = 32, blocks: int = 3, layers: int = 0):
        super().__init__()
        self.step = 2**layers
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        down: list[nn.Module] = []
        for i in range(layers):
            down += [nn.Conv2d(width << i, width << i + 1, 3, 2, 1), _instance(width << i + 1), nn.ReLU()]
        self.down = nn.Sequential(_instance(width), nn.ReLU(), *down)
        self.blocks = nn.ModuleList(_Residual(width << layers) for _ in range(blocks))
        up: list[nn.Module] = []
        for i in reversed(range(layers)):
            up += [nn.ConvTranspose2d(width << i + 1, width << i, 4, 2, 1), _instance(width << i), nn.ReLU()]
        self.up = nn.Sequential(*up)
        self.head = nn.Conv2d(width, channels, 3, padding=1)
        zeroed(self.head)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        if x.shape[2] % self.step or x.shape[3] % self.step:
            raise ValueError(f"this network takes images whose sides divide by {self.step}, not {tuple(x.shape[2:])}")
        h = self.down(self.stem(x))
        for block in self.blocks:
            h = h + block(h)
        made = x + self.head(self.up(h)).float()
        inside = made.clamp(-1, 1)
        return inside + 0.1 * (made - inside)


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        first, second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.layers = nn.Sequential(first, _instance(width), nn.ReLU(), second, _instance(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class FinePatches(Network):
    """A discriminator of patches for images too small to be halved twice: [B,C,H,W] -> logits [B,H/2,W/2], 12 pixels wide each.

    Args:
        channels: C.
        width: channels of every layer.
    """

    edges = ("layers.0", "layers.6")

    def __init__(self, channels: int, width: int = 64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        return self.layers(x)[:, 0]


def layers_of(shape: tuple[int, ...], most: int) -> int:
    """Strided convolutions for images [C,H,W]: as many as leave both sides whole and above 1, at most `most`."""
    side = math.gcd(shape[1], shape[2])
    return min(most, max(0, (side & -side).bit_length() - 1 - (side & -side == min(shape[1:]))))
