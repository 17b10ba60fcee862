"""A network of large images by way of smaller ones with more channels: squares of pixels folded. Knows no network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from maquette.contracts import Condition, Network
from maquette.nn.conv import fold, unfold


class Folded(Network):
    """[B,C,H,W] -> [B,C',H,W], by a network of [B,C n^2,H/n,W/n], n = `folding`; the condition's field is folded too.

    Args:
        net: the network.
        folding: pixels to a side of the squares that become channels; 1 = none.
    """

    def __init__(self, net: Network, folding: int = 2):
        super().__init__()
        self.net, self.folding = net, folding

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        if cond is not None and cond.field is not None:
            cond = replace(cond, field=fold(cond.field, self.folding))
        return unfold(self.net(fold(x, self.folding), t=t, cond=cond), self.folding)
