"""A network that says which of some kinds a text is of. Knows an encoder of symbols; not what the kinds are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maquette.contracts import IGNORE, Condition, Network
from maquette.networks.transformer import Transformer


class Classifier(Network):
    """Symbols -> logits of kinds: int64[B,T] -> [B,K], from the mean of the encoder's states; IGNORE fills up rows.

    Args:
        encoder: a transformer that looks both ways and scores nothing.
        kinds: how many there are, K.
        dropout: share of the mean's channels dropped in training.
    """

    edges = ("encoder.embed", "encoder.places", "head")

    def __init__(self, encoder: Transformer, kinds: int, dropout: float = 0.1):
        super().__init__()
        self.encoder, self.dropout = encoder, nn.Dropout(dropout)
        self.head = nn.Linear(encoder.width, kinds)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        return self.head(self.dropout(pooled(self.encoder(x, cond=cond), x)))


def pooled(states: Tensor, x: Tensor) -> Tensor:
    """The mean of the states [B,T,D] of what is no filling in x int64[B,T]: [B,D]; zero where there is nothing."""
    real = (x != IGNORE)[..., None]
    total = torch.where(real, states, 0).sum(1)
    return total / real.sum(1).clamp(min=1)
