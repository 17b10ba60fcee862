"""Give back the codes one is given, for a codec that has no prior to draw codes from. Knows no codec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maquette.contracts import Code, Condition, NeedsStart
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@dataclass(frozen=True)
class Rebuild:
    """The sample is the decoded start.

    Codes drawn at random, even as often as each occurs, do not belong together and decode to nothing: a codec alone makes
    no samples, and this says so.
    """

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
        """One draft: the start, codes [n, ...].

        Raises:
            NeedsStart: there is none.
        """
        if start is None:
            raise NeedsStart(
                "this run is a codec: it rebuilds what is encoded and has no prior to draw codes from. "
                "`maquette train vq_prior --codec RUN` trains one for it; in Python, sample(start=system.encode(batch)) rebuilds"
            )
        yield start

    def adopt(self, system: System, code: Code) -> Code:
        """Itself."""
        return code
