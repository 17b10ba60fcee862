"""A network with a symbol of its own for what is hidden, made to read the one that masked processes hide by. Knows one number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maquette.contracts import Condition, Network


class OwnMask(Network):
    """Symbols and `symbols`, the mask -> logits: int64[B,T] -> [B,T,V], in which the network's own mask is never guessed.

    Args:
        net: of V symbols, its own mask among them (BERT).
        mask: that one.
        symbols: V.
    """

    def __init__(self, net: Network, mask: int, symbols: int):
        super().__init__()
        self.net, self.mask, self.symbols = net, mask, symbols

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        out = self.net(x.masked_fill(x == self.symbols, self.mask), cond=cond)
        return torch.where(torch.arange(out.shape[-1], device=out.device) == self.mask, -torch.inf, out)
