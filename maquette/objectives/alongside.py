"""What an earlier system learns by, in the same run as what is built on it. Knows neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from maquette.contracts import Batch, Logs, Objective, Phase
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Alongside(Objective):
    """An earlier system's own phases, each under a name of its own; it sees its own codec, conditioner and networks.

    The system is not registered here: its networks are roles of the whole one.

    Args:
        name: put before the names of its phases.
        system: the earlier one.
        roles: its roles that learn -> what the whole system calls them.
        until: the step at which its phases end; 0 = never.
        every: they are made at every so many steps of the whole system's.
        fill: what a batch of the whole system lacks for the earlier one.

    Raises:
        ValueError: none of its phases trains any of these roles.
    """

    def __init__(
        self,
        name: str,
        system: System,
        roles: Mapping[str, str],
        until: int = 0,
        every: int = 1,
        fill: Callable[[Batch], Batch] | None = None,
    ):
        super().__init__()
        self.name, self.roles, self.until, self.every, self.fill = name, dict(roles), until, every, fill
        self.objective = system.objective
        self._system = (system,)  # in a tuple, which registers nothing
        if not any(found.roles for found in self.phases()):
            raise ValueError(f"no phase of {type(system.objective).__name__} trains any of the roles {', '.join(roles)}")

    def phases(self) -> list[Phase]:
        found = []
        for each in self.objective.phases():
            named = tuple(self.roles[role] for role in each.roles if role in self.roles)
            ends = min(filter(None, (each.until, self.until)), default=0)
            name, every, move = f"{self.name}_{each.name}", each.every * self.every, partial(self.move, each)
            found.append(replace(each, name=name, roles=named, every=every, move=move, until=ends))
        return found

    def move(self, own: Phase, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The move of one of its phases, on the earlier system."""
        return own.move(self._system[0], batch if self.fill is None else self.fill(batch), rng, step)
