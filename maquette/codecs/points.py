"""Points as they are: what a model of vectors sees is the data itself, so densities of codes are densities of data.

Also which codec a model of continuous numbers needs for which data.
"""

from __future__ import annotations

from torch import Tensor

from maquette.codecs.pixels import Pixels
from maquette.contracts import Code, Codec
from maquette.data import Facts


class Points(Codec):
    """float[B,D] <-> float[B,D], unchanged."""

    field = "point"

    def encode(self, data: Tensor) -> Code:
        return data

    def decode(self, code: Code) -> Tensor:
        return code


def continuous(facts: Facts, recipe: str) -> Codec:
    """The codec of a recipe that models continuous numbers: images in -1..1, or points as they are.

    Raises:
        ValueError: the data holds neither.
    """
    if facts.field not in ("image", "point"):
        raise ValueError(f"{recipe} models images and points, and data {facts.name!r} holds {facts.field}")
    return Pixels(facts.levels) if facts.field == "image" else Points()
