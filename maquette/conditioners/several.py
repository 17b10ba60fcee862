"""Several conditioners as one: what each reads, told together. Knows none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from maquette.contracts import Batch, Condition, Conditioner
from maquette.streams import Streams


class Several(Conditioner):
    """The conditions of all parts as one: vectors side by side, tokens one behind another, fields channel upon channel.

    Rows are dropped together: each part draws from the same streams. A part that is never to be dropped ignores `drop`. A later
    part may guess its fields from those of earlier ones.

    Raises:
        ValueError: two parts read the same field.
    """

    def __init__(self, *parts: Conditioner):
        super().__init__()
        self.fields = tuple(name for part in parts for name in part.fields)
        self.options = tuple(dict.fromkeys(name for part in parts for name in part.options))
        for name in self.fields:
            if self.fields.count(name) > 1:
                raise ValueError(f"two conditioners read the field {name!r}; each needs its own")
        self.shapes = tuple(shape for part in parts for shape in part.shapes)
        self.drops = any(part.drops for part in parts)
        self.list = nn.ModuleList(parts)

    @property
    def parts(self) -> list[Conditioner]:
        return cast("list[Conditioner]", list(self.list))

    def learn(self, data: Any) -> None:
        for part in self.parts:
            part.learn(data)

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition | None:
        told = [part(batch, drop=drop, rng=None if rng is None else rng[:]) for part in self.parts]
        found = [cond for cond in told if cond is not None]
        return together(found) if found else None

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        known: Batch = dict(said or {})
        guessed: Batch = {}
        for i, part in enumerate(self.parts):
            own = {k: v for k, v in part.guess(rng.fork(i), known).items() if k not in known}
            guessed, known = guessed | own, known | own
        return guessed

    def asked(self, batch: Batch) -> Batch:
        return {name: value for part in self.parts for name, value in part.asked(batch).items()}

    def seen(self, pictures: Tensor) -> Batch:
        return {name: value for part in self.parts for name, value in part.seen(pictures).items()}

    def notes(self, batch: Batch) -> list[str]:
        return [note for part in self.parts for note in part.notes(batch)]


class Apart(Conditioner):
    """A part that rows are not told by a chance of its own, whenever any are not: while a network learns.

    Args:
        part: what would be told.
        share: the chance.
        tag: of the streams that decide; parts of unlike tags are dropped independently of each other.

    Raises:
        ValueError: `share` is not a probability.
    """

    def __init__(self, part: Conditioner, share: float, tag: int = 1):
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}; it must lie in 0 .. 1, nearest is {min(1.0, max(0.0, share))}")
        self.part, self.share, self.tag = part, share, tag
        self.fields, self.options, self.drops, self.shapes = part.fields, part.options, part.drops, part.shapes

    def learn(self, data: Any) -> None:
        self.part.learn(data)

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition | None:
        if 0 < drop < 1 and rng is not None:
            return self.part(batch, drop=self.share, rng=rng.fork(self.tag))
        return self.part(batch, drop=drop, rng=rng)

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        return self.part.guess(rng, said)

    def asked(self, batch: Batch) -> Batch:
        return self.part.asked(batch)

    def seen(self, pictures: Tensor) -> Batch:
        return self.part.seen(pictures)

    def notes(self, batch: Batch) -> list[str]:
        return self.part.notes(batch)


def together(conditions: Sequence[Condition]) -> Condition:
    """Conditions of the same rows as one.

    Raises:
        ValueError: tokens of two widths, or fields of two sizes.
    """
    vectors = [cond.vector for cond in conditions if cond.vector is not None]
    spoken = [(cond.tokens, cond.mask) for cond in conditions if cond.tokens is not None]
    tokens, mask = spoken[0] if spoken else (None, None)
    if len(spoken) > 1:
        widths = [part.shape[2:] for part, _ in spoken]
        if any(width != widths[0] for width in widths):
            raise ValueError(f"tokens of {', '.join(str(tuple(width)) for width in widths)} cannot be told one behind another")
        tokens = torch.cat([part for part, _ in spoken], 1)
        if any(real is not None for _, real in spoken):
            seen = [real if real is not None else part.new_ones(part.shape[:2], dtype=torch.bool) for part, real in spoken]
            mask = torch.cat(seen, 1)
    laid = [cond.field for cond in conditions if cond.field is not None]
    if any(field.shape[2:] != laid[0].shape[2:] for field in laid):
        raise ValueError(f"fields of {', '.join(str(tuple(field.shape[2:])) for field in laid)} cannot be told as one")
    return Condition(torch.cat(vectors, 1) if vectors else None, tokens, mask, torch.cat(laid, 1) if laid else None)
