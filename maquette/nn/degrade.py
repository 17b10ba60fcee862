"""Pictures that lose something, and what can be made of the rest without a model: smaller ones, grey ones, outlines.

Tensors in and out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # shares of red, green, blue in brightness (BT.601)


@dataclass(frozen=True)
class Coarse:
    """Pictures made smaller: each pixel the mean of those it stands for.

    Args:
        whole: (C, H, W) of the pictures.
        factor: by which each side shrinks; a rest counts as a whole pixel.

    Raises:
        ValueError: a factor below 2, or one that leaves less than 2 pixels of a side.
    """

    whole: tuple[int, ...]
    factor: int = 2

    def __post_init__(self) -> None:
        most = min(self.whole[1:]) // 2
        if not 2 <= self.factor <= max(2, most):
            near = min(max(self.factor, 2), max(2, most))
            raise ValueError(
                f"factor is {self.factor}; it must lie in 2 .. {max(2, most)} for pictures of this size, nearest is {near}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of what is left."""
        channels, high, wide = self.whole
        return channels, -(-high // self.factor), -(-wide // self.factor)

    def of(self, images: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C,h,w]."""
        _, high, wide = self.shape
        return F.adaptive_avg_pool2d(images, (high, wide))

    def field(self, left: Tensor) -> Tensor:
        """What is left, brought up to the pictures' size as a network is told of it: bilinearly."""
        return F.interpolate(left, self.whole[1:], mode="bilinear", align_corners=False)

    def plain(self, left: Tensor) -> Tensor:
        """The picture in 0..1 that bicubic interpolation makes of what is left."""
        return F.interpolate(left, self.whole[1:], mode="bicubic", align_corners=False).clamp(0, 1)


@dataclass(frozen=True)
class Grey:
    """Pictures without their colours: [B,3,H,W] -> [B,1,H,W].

    Args:
        whole: (3, H, W) of the pictures.

    Raises:
        ValueError: pictures that have no colours to lose.
    """

    whole: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.whole[0] != 3:
            raise ValueError(f"pictures of {self.whole[0]} channel have no colours to lose; they must have 3")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, H, W) of what is left."""
        return 1, self.whole[1], self.whole[2]

    def of(self, images: Tensor) -> Tensor:
        """The brightness."""
        return (images * torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(3, 1, 1)).sum(1, keepdim=True)

    def field(self, left: Tensor) -> Tensor:
        """The brightness as it is."""
        return left

    def plain(self, left: Tensor) -> Tensor:
        """The grey picture."""
        return left.expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class Edges:
    """Pictures of which only the outlines are left: [B,C,H,W] -> [B,1,H,W] of zeros and ones.

    A pixel is on an edge where some channel rises steeply there (Sobel's filters); no threshold links edges as Canny's do.

    Args:
        whole: (C, H, W) of the pictures.
        steep: change per pixel from which on it is an edge, 0 .. 1.
        told: (h, w) that they are brought to for the network; () = as they are.

    Raises:
        ValueError: a threshold outside 0 .. 1.
    """

    whole: tuple[int, ...]
    steep: float = 0.1
    told: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.steep < 1:
            raise ValueError(f"steep is {self.steep}; it must lie between 0 and 1, and 0.1 is usual")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, H, W) of what is left."""
        return 1, self.whole[1], self.whole[2]

    def of(self, images: Tensor) -> Tensor:
        """1 on edges."""
        across = (
            torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=images.device, dtype=images.dtype) / 8
        )
        filters = torch.stack([across, across.T])[:, None]
        padded = F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        rise = F.conv2d(padded, filters).square().sum(1).sqrt().unflatten(0, images.shape[:2])
        return (rise.amax(1, keepdim=True) > self.steep).to(images.dtype)

    def field(self, left: Tensor) -> Tensor:
        """The outlines, of the size that the network is told."""
        return left if self.told in ((), left.shape[2:]) else F.interpolate(left, self.told, mode="bilinear", align_corners=False)

    def plain(self, left: Tensor) -> Tensor:
        """The outlines, white on black."""
        return left.expand(-1, self.whole[0], -1, -1)
