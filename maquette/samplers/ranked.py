"""Several answers are drawn for each that is kept: those that are not safe fall away, and of the others the best one stays.

Knows a network that rates answers as it writes them, one symbol behind a quality; not what a quality means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Condition
from maquette.data.ratings import NO, YES, judging
from maquette.samplers.best_of import BestOf
from maquette.samplers.rules import cut
from maquette.samplers.writing import check, ending, leading, rows_of

if TYPE_CHECKING:
    from maquette.system import System

FALLEN = 1e3  # less than any answer that is safe is worth
ROWS = 256  # answers rated side by side


@dataclass(frozen=True)
class Ranked(BestOf):
    """LaMDA's generate, filter, rank (Thoppilan 2022, arXiv:2201.08239, sec. 6.1): of `of` answers, those whose chance to be
    safe is below `safe` fall away, and the one with the highest sum of weighted chances stays. Where none is safe, the safest.

    Args:
        safe: least chance to be safe.
        weights: of the qualities that answers are ranked by.
    """

    of: int = 8
    safe: float = 0.5
    weights: Mapping[str, float] = field(default_factory=lambda: {"sensible": 3.0, "specific": 1.0, "interesting": 1.0})

    def __post_init__(self) -> None:
        super().__post_init__()
        check("safe", self.safe, 0, 1, "the least chance to be safe")

    def worth(self, system: System, code: Code, known: Tensor, cond: Condition | None) -> Tensor:
        """What each answer [m,T] counts for: float[m]."""
        code = cut(system.codec, self.own.rules.stop, code, leading(known))
        chances = rated(system, code, known, ("safe", *self.weights), cond)
        quality = sum(
            (weight * chances[name] for name, weight in self.weights.items()), torch.zeros(len(code), device=code.device)
        )
        return torch.where(chances["safe"] >= self.safe, quality, chances["safe"] - FALLEN)


@torch.no_grad()
def rated(
    system: System, code: Code, known: Tensor, qualities: tuple[str, ...], cond: Condition | None = None
) -> dict[str, Tensor]:
    """The chance that each answer [m,T] has each quality, float[m], as the system's own network rates it.

    Args:
        known: what of the rows was there before the answer, bool[m,T].
    """
    codec: Any = system.codec
    yes, no = codec.special.get(YES), codec.special.get(NO)
    if yes is None or no is None:
        raise ValueError("this run rates no answers: --set sampler=ranked is for one that learnt ratings, such as lamda's")
    known = torch.nn.functional.pad(known, (0, code.shape[1] - known.shape[1]))
    ends = ending(code, codec) & ~known
    last = torch.where(ends.any(1), ends.long().argmax(1) + 1, (code != IGNORE).sum(1))  # the end itself is read, too
    net, found = system.steady("main"), {}
    for quality in qualities:
        whole, place = judging(codec, code, last, quality)
        before = torch.cat([torch.full_like(whole[:, :1], codec.bos), whole], 1)
        before = before.masked_fill(before == IGNORE, codec.bos)
        parts = []
        for some in torch.arange(len(code), device=code.device).split(ROWS):
            told = rows_of(cond, some)
            logits = net(before[some], cond=told, only=place[some, None] + 1)[:, 0].float()
            parts.append((logits[:, yes] - logits[:, no]).sigmoid())
        found[quality] = torch.cat(parts)
    return found
