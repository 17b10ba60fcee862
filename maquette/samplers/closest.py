"""Of several draws, the one closest to what was told: how DALL-E 2's prior is drawn (Ramesh 2022, sec. 2.2).

Knows that codes and the condition's vector are of one space; neither process nor network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cosine_similarity

from maquette.contracts import Code, Condition, Sampler
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@dataclass(frozen=True)
class Closest:
    """Draws `of` codes [P] for each that is wanted, and keeps the one of the largest cosine with the condition's vector.

    Args:
        inner: what draws them.
        of: draws; the paper's 2. 1 keeps whatever comes.

    Raises:
        ValueError: no draws, or nothing told that codes could be close to.
    """

    inner: Sampler
    of: int = 2

    def __post_init__(self) -> None:
        if self.of < 1:
            raise ValueError(f"of is {self.of}; it must be at least 1, and 2 is the paper's")

    def draw(
        self,
        system: System,
        n: int,
        *,
        start: Code | None = None,
        cond: Condition | None = None,
        null: Condition | None = None,
        rng: Streams,
    ) -> Iterator[Code]:
        """The closest of each row's drafts at a time; the last is the sample."""
        if cond is None or cond.vector is None:
            raise ValueError("nothing is told that a sample could be close to: this sampler needs a condition's vector")
        rows = torch.arange(n, device=cond.vector.device).repeat(self.of)
        streams = Streams(torch.cat([rng.fork(i).keys for i in range(self.of)]))
        told, untold = (each if each is None else each.map(lambda slot: slot[rows]) for each in (cond, null))
        begun = None if start is None else start[rows]
        for drafts in self.inner.draw(system, len(rows), start=begun, cond=told, null=untold, rng=streams):
            each = drafts.unflatten(0, (self.of, n))
            best = cosine_similarity(each, cond.vector.to(each)[None], 2).argmax(0)
            yield each[best, torch.arange(n, device=each.device)]
