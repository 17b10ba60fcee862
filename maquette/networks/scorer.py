"""A number for what a network has read. Knows its last state, not what it read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from maquette.contracts import Condition, Network


class Scorer(Network):
    """States [B,D] -> a number each, [B,1].

    Args:
        width: of the states, D.
    """

    edges = ("head",)

    def __init__(self, width: int):
        super().__init__()
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)  # 0 would teach nothing to what it reads

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        return self.head(x)
