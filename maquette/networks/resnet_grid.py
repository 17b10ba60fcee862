"""Residual convolutions from an image to a grid of vectors and back, for any height and width. Knows no codes.

Apart from resnet.py's, whose vectors hold a whole image: here each vector sees a neighbourhood, so a grid can be quantised
place by place and modelled as an image of its own. Blocks go without normalisation, as VQ-VAE's do; it took a third of a step.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import Condition, Network
from maquette.networks.resnet import ResBlock, Resize

FOLD = 2  # pixels a side that are folded into channels before the first convolution


def grid_of(shape: tuple[int, ...], patch: int) -> tuple[int, int]:
    """(h, w) of the grid for images (C, H, W), a vector for each patch x patch pixels, the last ones perhaps part empty."""
    return -(-shape[1] // patch), -(-shape[2] // patch)


def checked(patch: int) -> int:
    """How often a patch is halved.

    Raises:
        ValueError: it is no power of two, or below 2.
    """
    if patch < FOLD or patch & (patch - 1):
        near = max(FOLD, 1 << max(1, patch).bit_length() - 1)
        raise ValueError(f"patch is {patch}; it must be 2, 4, 8 or a higher power of two, nearest is {near}")
    return patch.bit_length() - 1


class GridEncoder(Network):
    """Images [B,C,H,W] -> [B,outputs,h,w].

    Args:
        shape: (C, H, W) of the images.
        outputs: numbers per place.
        width: channels at half resolution; doubled once where it is halved again.
        patch: pixels to a side that a place stands for.
        depth: residual blocks per resolution.
    """

    edges = ("stem", "head")

    def __init__(self, shape: tuple[int, ...], outputs: int, width: int, patch: int, depth: int = 1):
        super().__init__()
        halvings = checked(patch) - 1
        self.odd = (0, -shape[2] % patch, 0, -shape[1] % patch)
        self.stem = nn.Conv2d(FOLD**2 * shape[0], width, 3, padding=1)
        layers: list[nn.Module] = []
        inside = width
        for _ in range(halvings):
            layers += [ResBlock(inside, inside, norm=False) for _ in range(depth)]
            layers.append(nn.Conv2d(inside, 2 * width, 4, stride=2, padding=1))
            inside = 2 * width
        layers += [ResBlock(inside, inside, norm=False) for _ in range(depth + 1)]
        self.body = nn.Sequential(*layers)
        self.norm, self.head = nn.GroupNorm(1, inside), nn.Conv2d(inside, outputs, 1)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        h = self.stem(F.pixel_unshuffle(F.pad(x, self.odd), FOLD))
        return self.head(F.silu(self.norm(self.body(h))))


class GridDecoder(Network):
    """[B,inputs,h,w] -> images [B,C,H,W]: the encoder's ladder climbed back.

    Args:
        shape: (C, H, W) of what comes out; C may be a likelihood's parameters per pixel.
    """

    edges = ("stem", "head")

    def __init__(self, inputs: int, shape: tuple[int, ...], width: int, patch: int, depth: int = 1):
        super().__init__()
        halvings = checked(patch) - 1
        self.size = shape[1:]
        high, across = grid_of(shape, patch)
        inside = 2 * width if halvings else width
        self.stem = nn.Conv2d(inputs, inside, 3, padding=1)
        layers: list[nn.Module] = [ResBlock(inside, inside, norm=False) for _ in range(depth + 1)]
        for i in range(halvings):
            high, across = 2 * high, 2 * across
            outside = width if i == halvings - 1 else 2 * width
            layers.append(Resize(inside, outside, (high, across)))
            layers += [ResBlock(outside, outside, norm=False) for _ in range(depth)]
            inside = outside
        self.body = nn.Sequential(*layers)
        self.norm, self.head = nn.GroupNorm(1, inside), nn.Conv2d(inside, FOLD**2 * shape[0], 3, padding=1)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        image = F.pixel_shuffle(self.head(F.silu(self.norm(self.body(self.stem(x))))), FOLD)
        return image[..., : self.size[0], : self.size[1]]
