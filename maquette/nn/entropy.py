"""Cross-entropy and divergences over large vocabularies, with little memory traffic. Tensors in, tensors out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.contracts import IGNORE

ROWS = 128  # rows of logits worked on at once: 128 x 4,096 in float32 stay in a core's cache


class _CrossEntropy(torch.autograd.Function):
    """-log p of each target, whose gradient is made on the way forward, a few rows at a time, in the logits' own precision.

    float32 exists for ROWS rows only: a third of the memory traffic of log_softmax + nll_loss on bfloat16 logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        """logits [N,V], target int64[N] -> float32[N] in nats, 0 where the target is IGNORE."""
        grad, losses = torch.empty_like(logits), []
        for part, index, out in zip(*(x.split(ROWS) for x in (logits, target, grad)), strict=True):
            real, place = (index != IGNORE).float(), index.clamp(min=0)[:, None]
            chance = part.float().log_softmax(1)
            losses.append(-chance.gather(1, place)[:, 0] * real)
            slope = chance.exp_().scatter_add_(1, place, chance.new_full(place.shape, -1.0))
            out.copy_(slope.mul_(real[:, None]))
        ctx.save_for_backward(grad)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad * above[0].to(grad.dtype)[:, None], None


def each_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log p(target) in nats, 0 where it is IGNORE: [...,V], int64[...] -> float32[...]."""
    flat, index = logits.flatten(0, -2), target.flatten()
    if torch.is_grad_enabled() and logits.requires_grad:
        return _CrossEntropy.apply(flat, index).view(target.shape)
    return F.cross_entropy(flat.float(), index, ignore_index=IGNORE, reduction="none").view(target.shape)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -log p(target) in nats over the targets that are not IGNORE (0 where there are none): [B,T,V], int64[B,T] -> []."""
    return each_cross_entropy(logits, target).sum() / (target != IGNORE).sum().clamp(min=1)


def forward(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher | student) of log-probabilities [N,V] of both: [N], and its slope by the student's logits. Both are used up."""
    chance = p.exp()
    return torch.linalg.vecdot(chance, p.sub_(q)), q.exp_().sub_(chance)


def reverse(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(student | teacher), and its slope."""
    chance, apart = q.exp(), q - p
    found = (chance * apart).sum(1)
    return found, chance * (apart - found[:, None])


def between(p: Tensor, q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The generalised Jensen-Shannon divergence (Agarwal 2024, eq. 1): beta KL(teacher | both) + (1 - beta) KL(student | both),
    where both are beta of the teacher and the rest of the student; and its slope."""
    both = torch.logaddexp(p + math.log(beta), q + math.log1p(-beta))
    found, slope = reverse(both, q)
    return beta * (p.exp() * (p - both)).sum(1) + (1 - beta) * found, (1 - beta) * slope


class _Divergence(torch.autograd.Function):
    """A divergence per row, whose gradient is made on the way forward, a few rows at a time, in the logits' own precision."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, teacher: Tensor, kind: Callable[..., tuple[Tensor, Tensor]], heat: float) -> Tensor:
        """logits, teacher [N,V] -> float32[N]."""
        grad, found = torch.empty_like(logits), []
        for part, other, out in zip(*(x.split(ROWS) for x in (logits, teacher, grad)), strict=True):
            value, slope = kind(*((x.float() / heat).log_softmax(1) for x in (other, part)))
            found.append(value.mul_(heat**2))
            out.copy_(slope.mul_(heat))  # heat^2 of the value, 1 / heat of what it is a function of
        ctx.save_for_backward(grad)
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * above[0].to(grad.dtype)[:, None], None, None, None


def each_divergence(logits: Tensor, teacher: Tensor, beta: float = 0.0, temperature: float = 1.0) -> Tensor:
    """How far a student's distribution of each symbol is from a teacher's, in nats: [...,V] twice -> float32[...].

    Nothing is learnt by the teacher. Times temperature^2, so that the size of the gradient stays (Hinton 2015, sec. 2).

    Args:
        beta: 0 = KL(teacher | student); 1 = KL(student | teacher); between, the Jensen-Shannon divergence of that share.
        temperature: divides the logits of both.
    """
    kind = partial(between, beta=beta) if 0 < beta < 1 else reverse if beta else forward
    return _Divergence.apply(logits.flatten(0, -2), teacher.detach().flatten(0, -2), kind, temperature).view(logits.shape[:-1])
