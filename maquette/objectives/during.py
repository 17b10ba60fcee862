"""An objective for a part of a run, at a pace of its own: what is learnt first, and what after. Knows none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from maquette.contracts import Batch, Objective, Phase
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class During(Objective):
    """The phases of an objective from one step on, until another.

    Args:
        objective: whose phases they are.
        since: the first step.
        until: the step at which they end; 0 = never.
        pace: share of the fit's learning rate that they learn at.

    Raises:
        ValueError: it would end before it begins, or a pace below 0.
    """

    def __init__(self, objective: Objective, since: int = 0, until: int = 0, pace: float = 1.0):
        super().__init__()
        if since < 0 or (until and until <= since):
            raise ValueError(f"phases from step {since} until {until} are never due; until must be above since, or 0")
        if not 0 <= pace < float("inf"):
            raise ValueError(f"pace is {pace}; a share of the learning rate must be 0 or more")
        self.objective, self.since, self.until, self.pace, self.bound = objective, since, until, pace, objective.bound

    @property
    def voice(self) -> Objective:
        return self.objective.voice

    def phases(self) -> list[Phase]:
        return [
            replace(
                each,
                since=max(each.since, self.since),
                until=min(filter(None, (each.until, self.until)), default=0),
                pace=each.pace * self.pace,
            )
            for each in self.objective.phases()
        ]

    def score(self, system: System, batch: Batch, rng: Streams) -> Tensor | None:
        return self.objective.score(system, batch, rng)
