"""A network that adds to the field it is told. Knows no network."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from maquette.contracts import Condition, Network


class Onto(Network):
    """[B,C,H,W] -> the condition's field and, on top of it, what a network makes of both: [B,C,H,W].

    A field of one channel is added to every channel. Where the network begins as nothing, the whole begins as the field.

    Raises:
        ValueError: no field is told.
    """

    def __init__(self, net: Network):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        if cond is None or cond.field is None:
            raise ValueError("this network adds to the field it is told, and was told none")
        return cond.field + self.net(x, t=t, cond=cond)
