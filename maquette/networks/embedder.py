"""Texts as points of one space: an encoder of symbols, the mean of what it sees, and a layer. Knows no pairs and no losses."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.networks.classifier import pooled
from maquette.networks.transformer import Transformer


class Embedder(Network):
    """Texts int64[B,T], filled up with IGNORE -> unit vectors [B,P]: the mean of an encoder's states (Reimers 2019, sec. 3).

    Args:
        encoder: looks both ways and scores nothing.
        size: numbers of a vector, P.
    """

    edges = ("project",)

    def __init__(self, encoder: Transformer, size: int):
        super().__init__()
        self.encoder, self.project = encoder, nn.Linear(encoder.width, size, bias=False)
        nn.init.normal_(self.project.weight, std=encoder.width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # as CLIP begins (Radford 2021, sec. 2.5)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        return F.normalize(self.project(pooled(self.encoder(x), x)), dim=1)

    def compare(self, one: Tensor, other: Tensor) -> Tensor:
        """Scaled cosines of unit vectors, [B,P] and [N,P] -> [B,N]."""
        return self.logit_scale.exp() * one @ other.T
