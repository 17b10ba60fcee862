"""Which rows a step sees: a pure function of (seed, step, rank), so that resume needs no state and ranks never overlap."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed % (1 << 64), epoch])).permutation(rows)


def order(seed: int, step: int, batch: int, rows: int, rank: int = 0, world: int = 1) -> Tensor:
    """Positions of this rank's rows at `step`: int64[batch / world].

    The ranks' shares, in rank order, are one process's batch. Every epoch is its own permutation of all rows;
    a batch may span two of them.

    Raises:
        ValueError: no rows, or a batch that does not divide over the ranks.
    """
    if rows < 1:
        raise ValueError("the training split has no rows")
    if batch % world:
        raise ValueError(f"a batch of {batch} rows does not divide over {world} ranks; nearest is {max(1, round(batch / world)) * world}")
    share = batch // world
    places = np.arange(share) + step * batch + rank * share
    picked = np.empty(share, dtype=np.int64)
    for epoch in np.unique(places // rows):
        here = places // rows == epoch
        picked[here] = _epoch(seed, int(epoch), rows)[places[here] % rows]
    return torch.from_numpy(picked)
