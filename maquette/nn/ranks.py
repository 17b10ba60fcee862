"""Sums over the processes that train together, for running averages that must be the same on all. Knows no launcher."""

from __future__ import annotations

import torch
from torch import Tensor


def summed(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, in place; `x` itself where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
    return x
