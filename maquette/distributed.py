"""Several processes as one trainer: who am I, and the mean of everyone's gradients. Started by torchrun.

Noise and data order are functions of the global row, so W ranks take the step that one process would.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor

TIMEOUT = timedelta(seconds=20)  # a lost or hung rank ends the run within this


class PeerLost(RuntimeError):
    """Another process died or hangs. The newest checkpoint stands; resume continues from it."""


@contextmanager
def _together(rank: int) -> Iterator[None]:
    """Within: a collective. Its failure means that a peer is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise PeerLost(f"rank {rank} lost a peer ({reason}); resume continues from the newest checkpoint") from None


@dataclass(frozen=True)
class World:
    """This process's place among `size` processes."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean_(self, tensors: list[Tensor]) -> None:
        """Replace every tensor by its mean over the ranks, in one all-reduce."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.detach().float().flatten() for t in tensors])
        with _together(self.rank):
            torch.distributed.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            with _together(self.rank):
                torch.distributed.barrier()


def join() -> World:
    """Join the processes that torchrun started, if it did; else a world of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    return World(torch.distributed.get_rank(), size)


def leave() -> None:
    """Part from the others, if there are any."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
