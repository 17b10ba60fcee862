"""Sums and collections over all processes of a run, for statistics that are kept beside gradients. One process: no work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within: every process keeps to itself, because they may take different numbers of steps."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def several() -> bool:
    """Whether this process trains together with others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized() and not _alone.get()


def summed(*tensors: Tensor) -> list[Tensor]:
    """Each tensor's sum over the ranks."""
    if not several():
        return list(tensors)
    flat = torch.cat([t.float().flatten() for t in tensors])
    torch.distributed.all_reduce(flat)
    return [part.view_as(t) for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True)]


def gathered(x: Tensor) -> Tensor:
    """The rows of all ranks [R*N, ...] from each one's [N, ...], in order of rank."""
    if not several():
        return x
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)
