"""Pictures and their captions, brought close; pictures and others' captions, kept apart (Radford 2021, fig. 3).

Knows a network of two towers by what it is called with, and nothing of their make. Role: `main`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.contracts import Batch, Logs, Objective, phase
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

MOST = math.log(100.0)  # of the logit scale's logarithm (sec. 2.5)


class Contrastive(Objective):
    """Symmetric cross-entropy over the pairs of a batch; the scale of the logits learns, up to 100.

    A departure: rows whose captions are the same symbols are not each other's negatives, for either caption is true of either
    picture. Negatives are sought within a micro-batch, and on several ranks within a rank's rows.

    Raises:
        ValueError: a batch of one row, which has no negatives.
    """

    @phase("main")
    def match(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Nats per row, the mean of both directions; logs the share of pictures whose own caption is closest, and the scale."""
        net: Any = system.nets["main"]
        symbols = _symbols(system, batch)
        if len(symbols) < 2:
            raise ValueError("a batch of one row has no negatives; contrast needs a batch of 2 or more, in every micro-batch")
        with torch.no_grad():
            net.logit_scale.clamp_(max=MOST)
        pictures, texts = net(_squared(system.encode(batch), net.plan.vision.image_size)), net(symbols)
        with torch.autocast(pictures.device.type, enabled=False):  # cosines near 1, times 100, are far apart in bfloat16
            logits = distinct(net.compare(pictures.float(), texts.float()), symbols)
        right = (logits.detach().argmax(1) == torch.arange(len(logits), device=logits.device)).float().mean()
        return symmetric(logits), {"matched": right, "scale": net.logit_scale.detach().exp()}

    @torch.no_grad()
    def embed(self, system: System, batch: Batch) -> dict[str, Tensor]:
        """Unit vectors [B,P] of the pictures and of the texts of a batch, of what it brings: "image", "text"."""
        net, found = system.steady("main"), {}
        if "image" in batch or "code" in batch:
            found["image"] = net(_squared(system.encode(batch), net.plan.vision.image_size))
        if "text" in batch:
            found["text"] = net(_symbols(system, batch))
        return {name: each.float() for name, each in found.items()}


def symmetric(logits: Tensor) -> Tensor:
    """Cross-entropy of a square of logits [B,B] with its diagonal as what is right, over rows and over columns, halved."""
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def distinct(logits: Tensor, symbols: Tensor) -> Tensor:
    """Logits [B,B] without those of other rows with the same symbols int64[B,L]: they are neither right nor wrong."""
    same = (symbols[:, None] == symbols[None]).all(2)
    return logits.masked_fill(same.fill_diagonal_(False), float("-inf"))


def _symbols(system: System, batch: Batch) -> Tensor:
    told = system.condition({"text": batch["text"]})
    assert told is not None and told.tokens is not None
    return told.tokens.to(system.device)


def _squared(x: Tensor, side: int) -> Tensor:
    """Pictures in the middle of a square, their edges drawn out: [B,C,H,W] -> [B,C,side,side]."""
    high, wide = side - x.shape[2], side - x.shape[3]
    if not high and not wide:
        return x
    return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2), mode="replicate")
