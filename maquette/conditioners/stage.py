"""What an earlier system draws, told to the next: how cascades and priors are built. Knows neither what is drawn nor how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from maquette.contracts import Batch, Condition, Conditioner
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Stage(Conditioner):
    """What `part` tells; where nobody says the field that it reads, the system `before` draws it, told the same.

    In training the field is the row's own: the batch brings it, or the part makes it of the row. The earlier system is not
    registered here: its networks are roles of the whole system, each by its own name, frozen or learning in the same run, so that
    each is saved once. What is drawn follows from a row's own streams.

    Args:
        part: reads the field.
        before: draws it; what its codec decodes is the field.
        field: of the part's fields, the one that is drawn; "" = its only one.

    Raises:
        ValueError: the part does not read the field, or reads several and none is named.
    """

    def __init__(self, part: Conditioner, before: System, field: str = ""):
        super().__init__()
        if field not in part.fields and (field or len(part.fields) != 1):
            raise ValueError(f"field is {field!r}; it must be one of those that the part reads: {', '.join(part.fields)}")
        self.part, self.field = part, field or part.fields[0]
        self.fields, self.options = part.fields, part.options
        self.drops, self.shapes = part.drops, part.shapes
        self._before = (before,)  # in a tuple, which registers nothing

    @property
    def before(self) -> System:
        return self._before[0]

    def learn(self, data: Any) -> None:
        self.part.learn(data)

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition | None:
        return self.part(batch, drop=drop, rng=rng)

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        known = dict(said or {})
        if self.field not in known:
            known[self.field] = drawn = self.drawn(rng.fork(0), known)
            return {**self.part.guess(rng.fork(1), known), self.field: drawn}
        return self.part.guess(rng.fork(1), known)

    def drawn(self, rng: Streams, said: Batch) -> Any:
        """What the earlier system draws of what was said, a sample per stream: its last draft, decoded."""
        conditioner = self.before.conditioner
        heard = (*conditioner.fields, *conditioner.options) if conditioner is not None else ()
        return self.before.finished(len(rng), about={name: said[name] for name in heard if name in said}, rng=rng)

    def asked(self, batch: Batch) -> Batch:
        return {name: value for name, value in self.part.asked(batch).items() if name != self.field}

    def seen(self, pictures: Tensor) -> Batch:
        return self.part.seen(pictures)

    def notes(self, batch: Batch) -> list[str]:
        return self.part.notes(batch)
