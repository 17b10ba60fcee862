"""Muon for networks of many small matrices and kernels: those of one shape go together. Knows tensors, no networks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

MOST = 1 << 22  # numbers that go through together: what is more than that fills a processor by itself


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal before they count (Jordan 2024), many to a call.

    A kernel [O,I,...] counts as the matrix [O,N] of all that an output sees. What it keeps, and what it computes of matrices, are
    torch.optim.Muon's, which takes one after the other: of small ones a call costs more than its sums.

    Args:
        params: matrices and kernels.
        lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn: as torch's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )

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
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)  # laid as what it moves, as after a resume
        grads = [p.grad for p in learn]
        kept = [self.state[p]["momentum_buffer"] for p in learn]
        torch._foreach_lerp_(kept, grads, 1 - group["momentum"])  # type: ignore[arg-type]
        ahead = torch._foreach_lerp(grads, kept, group["momentum"]) if group["nesterov"] else kept  # type: ignore[arg-type]
        torch._foreach_mul_(learn, 1 - group["lr"] * group["weight_decay"])
        moves = [matrix(x, p) for x, p in zip(ahead, learn, strict=True)]
        for some in alike(moves):
            stack = torch.stack([moves[i] for i in some])
            straight = orthogonal(stack, group["ns_coefficients"], group["ns_steps"], group["eps"])
            rows = [matrix(learn[i], learn[i]) for i in some]
            torch._foreach_add_(rows, straight.unbind(), alpha=-self._rate(group, *straight.shape[1:]))

    @staticmethod
    def _rate(group: dict[str, Any], rows: int, columns: int) -> float:
        """The learning rate of a matrix of a shape, for torch's three ways of adjusting it."""
        if group["adjust_lr_fn"] == "match_rms_adamw":
            return group["lr"] * 0.2 * math.sqrt(max(rows, columns))
        return group["lr"] * math.sqrt(max(1, rows / columns))


def matrix(x: Tensor, like: Tensor) -> Tensor:
    """A kernel [O,I,...] as a matrix [O,N], its columns in the order in which `like` lies in memory: a view of `like` itself."""
    last = like.ndim == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    return (x.movedim(1, -1) if last else x).flatten(1)


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
