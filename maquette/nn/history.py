"""Images made before, to be shown again. Knows neither who made them nor who looks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maquette.streams import Streams


class History(nn.Module):
    """Half of what is shown was made earlier: each new image may trade places with an old one (Shrivastava 2017, sec. 2.3).

    Until it is full every image is kept and shown as it is. The images are a buffer, so a run resumes with them; each process
    of several keeps its own.

    Args:
        shape: (C, H, W) of the images.
        size: images kept (Zhu 2017: 50); 0 shows what it is given.
    """

    kept: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], size: int = 50):
        super().__init__()
        if size < 0:
            raise ValueError(f"size is {size}; the images kept must be 0 or more")
        self.register_buffer("kept", torch.zeros(size, *shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, x: Tensor, rng: Streams) -> Tensor:
        """[B,C,H,W] -> [B,C,H,W]."""
        size = len(self.kept)
        if size == 0:
            return x
        shown, place, trade = x.clone(), rng.integers(size).tolist(), (rng.uniform() < 0.5).tolist()
        for i, (at, swap) in enumerate(zip(place, trade, strict=True)):
            if int(self.count) < size:
                self.kept[int(self.count)] = x[i]
                self.count += 1
            elif swap:
                shown[i] = self.kept[at]
                self.kept[at] = x[i]
        return shown
