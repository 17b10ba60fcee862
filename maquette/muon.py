"""Muon for networks of many small matrices: those of one shape are made orthogonal together. Knows matrices, no networks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

MOST = 1 << 22  # numbers that go through together: what is more than that fills a processor by itself


class Muon(torch.optim.Muon):
    """Momentum whose matrices are made orthogonal before they count (Jordan 2024), many to a call.

    What it is told, what it keeps and what it computes are torch's, which takes one matrix after the other: of small ones a call
    costs more than its sums.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learn = [p for p in group["params"] if p.grad is not None]
            if learn:
                self._move(learn, group)
        return loss

    def _move(self, learn: list[Tensor], group: dict[str, Any]) -> None:
        for p in learn:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)  # type: ignore[arg-type]
        grads = [p.grad for p in learn]
        kept = [self.state[p]["momentum_buffer"] for p in learn]
        torch._foreach_lerp_(kept, grads, 1 - group["momentum"])  # type: ignore[arg-type]
        moves = torch._foreach_lerp(grads, kept, group["momentum"]) if group["nesterov"] else kept  # type: ignore[arg-type]
        torch._foreach_mul_(learn, 1 - group["lr"] * group["weight_decay"])
        for some in alike(moves):
            stack = torch.stack([moves[i] for i in some])
            straight = orthogonal(stack, group["ns_coefficients"], group["ns_steps"], group["eps"])
            torch._foreach_add_([learn[i] for i in some], straight.unbind(), alpha=-self._rate(group, *straight.shape[1:]))

    @staticmethod
    def _rate(group: dict[str, Any], rows: int, columns: int) -> float:
        """The learning rate of a matrix of a shape, for torch's three ways of adjusting it."""
        if group["adjust_lr_fn"] == "match_rms_adamw":
            return group["lr"] * 0.2 * math.sqrt(max(rows, columns))
        return group["lr"] * math.sqrt(max(1, rows / columns))


def alike(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Places of tensors of one shape, of at most MOST numbers together or one alone."""
    shapes: dict[torch.Size, list[int]] = defaultdict(list)
    for i, x in enumerate(tensors):
        shapes[x.shape].append(i)
    for shape, places in shapes.items():
        count = max(1, MOST // max(1, shape.numel()))
        yield from (places[i : i + count] for i in range(0, len(places), count))


def orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Matrices [N,R,C] with singular values brought near 1, by Newton and Schulz's iteration in bfloat16 (Jordan 2024)."""
    a, b, c = coefficients
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x).bfloat16().contiguous()
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
