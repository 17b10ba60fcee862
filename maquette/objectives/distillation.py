"""Learn from a teacher what comes next: by its probabilities, of texts or of what the student itself writes.

Knows two causal networks over the same symbols, "main" and "teacher", and a sampler; not what the symbols mean.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Batch, Code, Codec, Condition, Logs, Phase, Sampler, phase
from maquette.nn.entropy import cross_entropy, each_divergence
from maquette.objectives.likelihood import NextToken, shared
from maquette.objectives.rollout import alone, answered, rollout
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

ASKED = 4  # of a text that nobody asked for, one in so many symbols is given, and what follows is written


class Distillation(NextToken):
    """Each symbol's distribution is drawn to a frozen teacher's (Hinton 2015, arXiv:1503.02531), beside the plain likelihood.

    With a sampler, also on what the student writes, as it writes then (Agarwal 2024, arXiv:2306.13649, alg. 1): it learns where
    its own symbols lead. Nothing is learnt through the drawing.

    Args:
        bos: the symbol that begins every sequence.
        temperature: divides the logits of both; above 1, what is unlikely counts more.
        beta: 0 = KL(teacher | student), which covers all that the teacher says; 1 = KL(student | teacher), which keeps to what it
            finds likely; between, the generalised Jensen-Shannon divergence.
        share: of the loss on texts that is plain likelihood.
        sampler: draws the student's own texts; None = it learns from others' alone.
        every: it does so at every so many steps.
        whole: as NextToken has it.

    Raises:
        ValueError: a dial out of range.
    """

    def __init__(
        self,
        bos: int,
        temperature: float = 1.0,
        beta: float = 0.0,
        share: float = 0.0,
        sampler: Sampler | None = None,
        every: int = 1,
        whole: int = 0,
    ):
        super().__init__(bos, whole=whole)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; it must be above 0, 1 = as the teacher is")
        for name, value in (("beta", beta), ("share", share)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must lie in 0 .. 1, nearest is {min(max(value, 0.0), 1.0):g}")
        if every < 1:
            raise ValueError(f"every is {every}; it must be 1 or more, 1 = at each step")
        self.temperature, self.beta, self.share, self.sampler, self.every = temperature, beta, share, sampler, every

    def phases(self) -> list[Phase]:
        own = [Phase("own", ("main",), self.every, self.own)] if self.sampler is not None else []
        return [*super().phases(), *own]

    @phase("main")
    def predict(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Of the texts of a batch: the mean divergence per target, in nats, mixed with the mean of -log p of the targets."""
        x, target = self.shift(system.encode(batch), batch)
        cond = shared(None, batch)
        logits = system.nets["main"](x, cond=cond)
        if self.share == 1:
            return cross_entropy(logits, target), {}
        apart = self.apart(system, logits, x, cond, target != IGNORE)
        if not self.share:
            return apart, {}
        plain = cross_entropy(logits, target)
        return torch.lerp(apart, plain, self.share), {"apart": apart, "plain": plain}

    def own(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Of what the student writes where the texts of a batch go on, or are to answer: the mean divergence per symbol written.

        Logs how many symbols it wrote.
        """
        assert self.sampler is not None
        code, written = wrote(system, self.sampler, begun(system.encode(batch), batch, system.codec), rng)
        document = alone(code, system.codec)
        cond = None if document is None else Condition(document=document)
        x = torch.cat([torch.full_like(code[:, :1], self.bos), code[:, :-1]], 1)
        found = self.apart(system, system.nets["main"](x, cond=cond), x, cond, written)
        return found, {"length": written.sum(1).float().mean()}

    def apart(self, system: System, logits: Tensor, x: Tensor, cond: Condition | None, counted: Tensor) -> Tensor:
        """The mean divergence from the teacher over the places counted, bool[B,T]."""
        with torch.no_grad():
            teacher = system.nets["teacher"](x, cond=cond)
        known = min(logits.shape[-1], teacher.shape[-1])  # published networks have more rows than symbols, not always as many
        found = each_divergence(logits[..., :known], teacher[..., :known], self.beta, self.temperature)
        return (found * counted).sum() / counted.sum().clamp(min=1)


def begun(code: Code, batch: Batch, codec: Codec) -> Code:
    """What a text is written on from, int64[B,T], IGNORE where there is to be written: a first part of each, or, where a batch
    says what is "learnt", all before that."""
    real = code != IGNORE
    known = real.sum(1) // ASKED
    if "learnt" in batch:
        learnt = batch["learnt"].to(code.device)
        known = torch.where(learnt.any(1), learnt.long().argmax(1), known)
    if not codec.begins:
        known = known.clamp(min=1)  # nothing stands before the first
    return code.masked_fill(torch.arange(code.shape[1], device=code.device) >= known[:, None], IGNORE)


def wrote(system: System, sampler: Sampler, start: Code, rng: Streams) -> tuple[Code, Tensor]:
    """What a system's network "main" writes behind starts, and which symbols those are, bool[B,T]; cut behind the last."""
    code, _ = rollout(system, sampler, start, rng)
    written = answered(code, start, system.codec)
    last = int(written.sum(0).nonzero().max()) + 1
    return code[:, :last], written[:, :last]
