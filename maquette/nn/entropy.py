"""Cross-entropy over large vocabularies, with little memory traffic. Tensors in, tensors out."""

from __future__ import annotations

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
