"""Exact likelihood of sequences: predict each symbol from those before it.

Knows one causal network, "main", and the symbol that begins a sequence; not what symbols mean, nor how they are drawn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maquette.contracts import IGNORE, Batch, Code, Condition, Logs, Objective, ended, phase
from maquette.nn.entropy import cross_entropy, each_cross_entropy
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

STEP = 32  # places that are scored come in multiples of it


def inputs(code: Code, document: Tensor | None, bos: int) -> tuple[Tensor, Condition | None]:
    """What a network is told to make something of each symbol of a code int64[N,T] before it is read: the symbols before it.

    Args:
        document: int64[N,T], which of several each input is of, where they share a row.
        bos: the symbol that stands before the first.
    """
    before = torch.cat([torch.full_like(code[:, :1], bos), code[:, :-1]], 1)
    return before.masked_fill(before == IGNORE, bos), None if document is None else Condition(document=document)


def said(net: nn.Module, code: Code, counted: Tensor, document: Tensor | None, bos: int) -> Tensor:
    """Log-probability of each counted symbol of a code, bool[N,T], given those before it: float32[N,T], 0 elsewhere."""
    x, cond = inputs(code, document, bos)
    return -costs(net, x, code.masked_fill(~counted, IGNORE), cond)


def costs(net: nn.Module, x: Tensor, target: Tensor, cond: Condition | None) -> Tensor:
    """-log p of each target, given x up to there: float32[B,T], 0 where it is IGNORE, which is not scored where a network may
    leave it out: of a large vocabulary the scores are most of the work."""
    if not getattr(net, "selective", False):
        return each_cross_entropy(net(x, cond=cond), target)
    real = target != IGNORE
    most = -(-int(real.sum(1).max()) // STEP) * STEP  # few shapes, for each is compiled by itself
    if most >= target.shape[1]:
        return each_cross_entropy(net(x, cond=cond), target)
    only = real.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    found = each_cross_entropy(net(x, cond=cond, only=only), target.gather(1, only))
    return torch.zeros_like(target, dtype=found.dtype).scatter(1, only, found)


def shared(cond: Condition | None, batch: Batch) -> Condition | None:
    """What a network is told of a batch, with its "document" int64[B,T] where several share a row: which each input is of."""
    if "document" not in batch:
        return cond
    return replace(cond or Condition(), document=batch["document"])


class NextToken(Objective):
    """Maximum likelihood by the chain rule: the network's row t scores the symbol after x_t.

    Args:
        bos: the symbol that begins every sequence.
        drop: chance that a training row gets the null condition, for classifier-free guidance.
        whole: rows are whole texts of at most this many symbols, their ends included: where one ends, `bos` is a target, and
            what lies beyond is cut off; 0 = rows are windows, which end anywhere.
        ahead: weight of the guesses further ahead, where the network makes any (DeepSeek-V3, eq. 25).
    """

    bound = "exact"

    def __init__(self, bos: int, drop: float = 0.0, whole: int = 0, ahead: float = 0.0):
        super().__init__()
        self.whole, self.ahead = whole, ahead
        if not 0 <= drop <= 1:
            raise ValueError(f"drop is a chance, 0 .. 1, not {drop}; nearest is {min(max(drop, 0.0), 1.0)}")
        self.bos, self.drop = bos, drop

    def shift(self, code: Code, batch: Batch) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64[B,T] each.

        A batch's "given" int64[B] = leading positions that are context, not scored; its "learnt" bool[B,T] = those that are.
        """
        if self.whole:
            code = ended(code, self.bos, self.whole)
        begin = torch.full_like(code[:, :1], self.bos)
        before = torch.cat([begin, code[:, :-1]], 1)
        target = code
        if "given" in batch:
            place = torch.arange(code.shape[1], device=code.device)
            target = code.masked_fill(place < batch["given"].to(code.device)[:, None], IGNORE)
        if "learnt" in batch:
            target = target.masked_fill(~batch["learnt"].to(code.device), IGNORE)
        return before.masked_fill(before == IGNORE, self.bos), target

    def targets(self, batch: Batch) -> Tensor | None:
        return batch["learnt"].sum() if "learnt" in batch else None

    @phase("main", "conditioner")
    def predict(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean cross-entropy per target, in nats."""
        x, target = self.shift(system.encode(batch), batch)
        cond = shared(system.condition(batch, drop=self.drop, rng=rng), batch)
        if not self.ahead:
            return costs(system.nets["main"], x, target, cond).sum() / (target != IGNORE).sum().clamp(min=1), {}
        found = system.nets["main"](x, cond=cond, whole=True)
        first = cross_entropy(found.out, target)
        further = torch.stack([cross_entropy(out, target[:, k:]) for k, out in enumerate(found.ahead, 1)]).mean()
        return first + self.ahead * further, {"next": first, "ahead": further}

    def score(self, system: System, batch: Batch, rng: Streams) -> Tensor:
        """-log p(code | condition) in nats [B], summed over the targets."""
        x, target = self.shift(system.encode(batch), batch)
        return costs(system.steady("main"), x, target, shared(system.condition(batch), batch)).sum(1)


class NextCode(NextToken):
    """The same for the codes of a lossy codec: they have a likelihood, the data themselves have none here.

    Args:
        bos, drop: as in NextToken.
        heard: share of the loss that symbols told before the code have, learned by the same network (Ramesh 2021, sec. 2.3: 1/8).

    Raises:
        ValueError: a share outside 0 .. 1.
    """

    bound = ""

    def __init__(self, bos: int, drop: float = 0.0, heard: float = 0.0):
        super().__init__(bos, drop)
        if not 0 <= heard < 1:
            raise ValueError(f"heard is a share of the loss, 0 .. 1 (without 1), not {heard}")
        self.heard = heard

    @phase("main", "conditioner")
    def predict(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean cross-entropy per target, in nats: of the code, and of what is told before it, where that has a share."""
        if not self.heard:
            return super().predict(system, batch, rng, step)
        x, target = self.shift(system.encode(batch), batch)
        cond = system.condition(batch, drop=self.drop, rng=rng)
        assert cond is not None and cond.tokens is not None
        net: Any = system.nets["main"]
        before, after = net.read(x, cond)
        said = cond.tokens[:, 1:] if cond.mask is None else cond.tokens[:, 1:].masked_fill(~cond.mask[:, 1:], IGNORE)
        code, told = cross_entropy(after, target), cross_entropy(before[:, :-1], said)
        return torch.lerp(code, told, self.heard), {"code": code, "told": told}

    def score(self, system: System, batch: Batch, rng: Streams) -> None:  # type: ignore[override]
        return None

    @torch.no_grad()
    def rate(self, system: System, batch: Batch, rng: Streams) -> Tensor:
        """What the codes cost to send under this prior, given the batch's own condition, in nats [B]."""
        return super().score(system, batch, rng)
