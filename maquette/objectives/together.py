"""Several objectives of one system, each with its own phases, in one run. Knows none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from maquette.contracts import Batch, Objective, Phase
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Together(Objective):
    """The phases of all parts, in the order given. The last part speaks for the whole: its bound, its score, its rate.

    Raises:
        ValueError: two parts have a phase of the same name.
    """

    def __init__(self, *parts: Objective):
        super().__init__()
        self.parts, self.bound = nn.ModuleList(parts), parts[-1].bound
        names = [found.name for found in self.phases()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two objectives have a phase called {name!r}; logs need a name each")

    @property
    def last(self) -> Objective:
        """The part that speaks for the whole."""
        return cast(Objective, self.parts[-1])

    @property
    def voice(self) -> Objective:
        return self.last.voice

    def phases(self) -> list[Phase]:
        return [found for part in self.parts for found in part.phases()]  # type: ignore[operator]

    def score(self, system: System, batch: Batch, rng: Streams) -> Tensor | None:
        return self.last.score(system, batch, rng)

    def rate(self, system: System, batch: Batch, rng: Streams) -> Tensor | None:
        """What the codes cost to send, in nats [B], if the last part can say."""
        rate = getattr(type(self.last), "rate", None)
        return None if rate is None else rate(self.last, system, batch, rng)
