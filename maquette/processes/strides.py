"""How far one step of a sampler goes, as numbers that a network is told. Knows no network and no path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maquette.streams import Streams


@dataclass(frozen=True)
class Strides:
    """Steps of 1, 2, 4, .. `finest` cells of a sampling grid of `finest` cells (Frans 2024, sec. 3.1).

    Each length is told as its own place of a vector; the shortest, under which a path is its velocity at every moment, as
    zeros (there, a network that has learnt no lengths is right).

    Raises:
        ValueError: `finest` is not a power of two above 1.
    """

    finest: int = 8

    def __post_init__(self) -> None:
        if self.finest < 2 or self.finest & (self.finest - 1):
            near = 1 << max(1, round(max(self.finest, 2)).bit_length() - 1)
            raise ValueError(f"finest is {self.finest}; it must be a power of two above 1, nearest is {near}")

    @property
    def width(self) -> int:
        """Numbers in the vector: how many lengths there are above the shortest."""
        return self.finest.bit_length() - 1

    def told(self, cells: Tensor) -> Tensor:
        """Lengths in cells, int64[B], each a power of two -> [B, width]."""
        powers = 2 ** torch.arange(1, self.width + 1, device=cells.device)
        return (cells[:, None] == powers).float()

    def of(self, steps: int) -> int:
        """Cells in one of `steps` equal steps; more steps than cells go by the shortest.

        Raises:
            ValueError: the grid cannot be cut so.
        """
        if steps >= self.finest:
            return 1
        if steps < 1 or self.finest % steps:
            allowed = [2**i for i in range(self.width)]
            near = min(allowed, key=lambda known: abs(known - steps))
            raise ValueError(
                f"steps is {steps}; a shortcut knows {', '.join(map(str, allowed))}, and {self.finest} or more; nearest is {near}"
            )
        return self.finest // steps

    def draw(self, rng: Streams) -> tuple[Tensor, Tensor]:
        """A length above the shortest, all alike likely, and a place from which that many cells are left: int64[B] each.

        Places count from the noise, and are whole multiples of the length.
        """
        cells = 2 ** (rng.integers(self.width) + 1)
        count = self.finest // cells
        return cells, (rng.uniform() * count).long().clamp(max=count - 1) * cells
