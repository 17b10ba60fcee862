"""Unit vectors as numbers of unit variance, which is how a process finds them. Knows nothing of what they stand for."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import normalize

from maquette.contracts import Code, Codec


class Vectors(Codec):
    """Unit vectors float[B,P] <-> float[B,P], sqrt(P) times as long. What is decoded has unit length whatever the code's.

    Args:
        field: of the batch, where they are.
    """

    def __init__(self, field: str = "embedding"):
        super().__init__()
        self.field = field

    def encode(self, data: Tensor) -> Code:
        return data * math.sqrt(data.shape[1])

    def decode(self, code: Code) -> Tensor:
        return normalize(code, dim=1)
