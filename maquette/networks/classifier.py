"""A layer that says which of some kinds a text is of. Knows the states of an encoder; not what the kinds are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maquette.contracts import IGNORE, Condition, Network


class Classifier(Network):
    """The mean of an encoder's states [B,D] -> logits of kinds [B,K]. Channels are brought to one scale over the batch: an
    encoder that guesses words has a few that are a hundred times the others, and tell of no kind.

    Args:
        width: of the states, D.
        kinds: how many there are, K.
        dropout: share of the mean's channels dropped in training.
    """

    edges = ("head",)

    def __init__(self, width: int, kinds: int, dropout: float = 0.1):
        super().__init__()
        self.scale, self.dropout = nn.BatchNorm1d(width, affine=False), nn.Dropout(dropout)
        self.head = nn.Linear(width, kinds)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        return self.head(self.dropout(self.scale(x.float())))


def pooled(states: Tensor, x: Tensor) -> Tensor:
    """The mean of the states [B,T,D] of what is no filling in x int64[B,T]: [B,D]; zero where there is nothing."""
    real = (x != IGNORE)[..., None]
    total = torch.where(real, states, 0).sum(1)
    return total / real.sum(1).clamp(min=1)
