"""Which rows a step sees: a pure function of (seed, step, rank), so that resume needs no state and ranks never overlap."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=2)  # a batch may span two epochs
def _epoch(seed: int, epoch: int, rows: int) -> np.ndarray:
    """A permutation of `rows`, from raw Philox bits: NumPy keeps those the same for ever, not so Generator.permutation.

    The row number sits in each random key's low bits: sorting the keys in place (0.3 s for 10 million) leaves no tie.
    """
    width = np.uint64(max(1, (rows - 1).bit_length()))
    keys = np.random.Philox(key=np.array([seed % (1 << 64), epoch], np.uint64)).random_raw(rows)
    keys <<= width
    keys |= np.arange(rows, dtype=np.uint64)
    keys.sort()
    keys &= (np.uint64(1) << width) - np.uint64(1)
    return keys.view(np.int64)


def order(seed: int, step: int, batch: int, rows: int, rank: int = 0, world: int = 1) -> Tensor:
    """Positions of this rank's rows at `step`: int64[batch / world].

    The ranks' shares, in rank order, are one process's batch. Every epoch is its own permutation of all rows;
    a batch may span two of them, or more.

    Raises:
        ValueError: no rows, or a batch that does not divide over the ranks.
    """
    if rows < 1:
        raise ValueError("the training split has no rows")
    if batch < 1 or batch % world:
        fits = max(1, round(batch / world)) * world
        raise ValueError(f"a batch of {batch} rows does not divide over {world} ranks; nearest is {fits}")
    share = batch // world
    places = np.arange(share) + step * batch + rank * share
    epochs, inside = np.divmod(places, rows)
    picked = np.empty(share, dtype=np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        picked[here] = _epoch(seed, epoch, rows)[inside[here]]
    return torch.from_numpy(picked)
