"""What belongs together, brought close; what does not, kept apart: pictures and their captions (Radford 2021, fig. 3), or texts.

Knows how each of two fields is read, and a network of unit vectors by what it is called with. Role: `main`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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

    A departure: rows that are the same symbols on either side are not each other's negatives, for either's counterpart is true
    of both. Negatives are sought within a micro-batch, and on several ranks within a rank's rows.

    Args:
        reads: the two fields that are compared, each with what makes of a batch that which the network is called with; None =
            pictures and their captions.

    Raises:
        ValueError: a batch of one row, which has no negatives.
    """

    def __init__(self, reads: Mapping[str, Callable[[System, Batch], Tensor]] | None = None):
        super().__init__()
        self.reads = dict(reads or {"image": pictures, "text": captions})
        self.sides = tuple(self.reads)

    @phase("main")
    def match(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Nats per row, the mean of both directions; logs the share of rows whose own counterpart is closest, and the scale."""
        net: Any = system.nets["main"]
        one, other = (read(system, batch) for read in self.reads.values())
        if len(one) < 2:
            raise ValueError("a batch of one row has no negatives; contrast needs a batch of 2 or more, in every micro-batch")
        with torch.no_grad():
            net.logit_scale.clamp_(max=MOST)
        vectors = net(one), net(other)
        with torch.autocast(vectors[0].device.type, enabled=False):  # cosines near 1, times 100, are far apart in bfloat16
            logits = net.compare(vectors[0].float(), vectors[1].float())
        logits = distinct(logits, *(x for x in (one, other) if not x.is_floating_point()))
        right = (logits.detach().argmax(1) == torch.arange(len(logits), device=logits.device)).float().mean()
        return symmetric(logits), {"matched": right, "scale": net.logit_scale.detach().exp()}

    @torch.no_grad()
    def embed(self, system: System, batch: Batch) -> dict[str, Tensor]:
        """Unit vectors [B,P] of those of its sides that a batch brings."""
        net = system.steady("main")
        brought = {*batch, *((system.codec.field,) if "code" in batch else ())}
        return {side: net(read(system, batch)).float() for side, read in self.reads.items() if side in brought}


def symmetric(logits: Tensor) -> Tensor:
    """Cross-entropy of a square of logits [B,B] with its diagonal as what is right, over rows and over columns, halved."""
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def distinct(logits: Tensor, *symbols: Tensor) -> Tensor:
    """Logits [B,B] without those of other rows with the same symbols int64[B,L], of any of these: neither right nor wrong."""
    same = torch.stack([(rows[:, None] == rows[None]).all(2) for rows in symbols]).any(0)
    return logits.masked_fill(same.fill_diagonal_(False), float("-inf"))


def captions(system: System, batch: Batch) -> Tensor:
    """The texts of a batch as the symbols of its conditioner, int64[B,L]."""
    told = system.condition({"text": batch["text"]})
    assert told is not None and told.tokens is not None
    return told.tokens.to(system.device)


def symbols(system: System, batch: Batch, field: str) -> Tensor:
    """The texts of a field as the symbols of the codec, as many as its context holds: int64[B,T], filled up with IGNORE."""
    return system.codec.encode(batch[field])[:, : system.codec.length]


def pictures(system: System, batch: Batch) -> Tensor:
    """The pictures of a batch, squares as large as the network takes them."""
    net: Any = system.nets["main"]
    return _squared(system.encode(batch), net.plan.vision.image_size)


def _squared(x: Tensor, side: int) -> Tensor:
    """Pictures in the middle of a square, their edges drawn out: [B,C,H,W] -> [B,C,side,side]."""
    high, wide = side - x.shape[2], side - x.shape[3]
    if not high and not wide:
        return x
    return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2), mode="replicate")
