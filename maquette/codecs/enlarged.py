"""Pictures as smaller ones, which a system of their own makes large again. Knows of that system what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.codecs.pixels import CoarsePixels
from maquette.contracts import Code
from maquette.nn.degrade import Coarse
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Enlarged(CoarsePixels):
    """float[B,C,H,W] in 0..1 -> float[B,C,h,w] in -1..1 -> float[B,C,H,W] in 0..1: a cascade's last stage as the way back.

    What is drawn to make a picture large is drawn alike for all, so that equal codes give equal pictures and near ones near ones.
    The system is not registered here: its networks are roles of the whole one.

    Args:
        coarse: how much smaller.
        larger: draws pictures told a small one, their "source".
        levels: distinct values per channel of the data.
    """

    def __init__(self, coarse: Coarse, larger: System, levels: int = 256):
        super().__init__(coarse, levels)
        self._larger = (larger,)  # in a tuple, which registers nothing

    def decode(self, code: Code) -> Tensor:
        larger, rows = self._larger[0], len(code)
        alike = Streams.of(0, 1, device=code.device)[torch.zeros(rows, dtype=torch.int64, device=code.device)]
        found: Tensor = larger.finished(rows, about={"source": super().decode(code)}, rng=alike)
        return found
