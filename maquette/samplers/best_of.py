"""Several texts are drawn for each that is kept, the likeliest. Knows how likely the network finds a text, and no other judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Condition
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.rules import cut, through
from maquette.samplers.writing import Writer, check, ending, leading, page, rows_of, said
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

PLAIN = Autoregressive()


@dataclass(frozen=True)
class BestOf(Writer):
    """The likeliest of `of` samples, by the network's own log-probability; the first of them is the plain sampler's.

    Args:
        of: samples drawn for each that is kept.
        length_penalty: the log-probability is divided by the symbols written, an end included, to this power; 1 = their mean.
        own: how symbols are chosen.
    """

    grows = False
    of: int = 4
    length_penalty: float = 1.0
    own: Autoregressive = PLAIN

    def __post_init__(self) -> None:
        check("of", self.of, 1, float("inf"), "1 or more samples")
        check("length_penalty", self.length_penalty, -100, 100, "a power of the length, 0 = none")

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
        """Drafts int64[n,t]: the first of each row's samples as it grows, at last the best; starts as Autoregressive has them."""
        rows = torch.arange(n, device=rng.keys.device).repeat_interleave(self.of)
        keys = torch.stack([rng.keys, *(rng.fork(i).keys for i in range(1, self.of))], 1).flatten()
        begun = None if start is None else start[rows.to(start.device)]
        last: Code = rows[:, None]
        told, streams = rows_of(cond, rows), Streams(keys, rng.drawn)
        for last in self.own.write(system, len(rows), start=begun, cond=told, null=rows_of(null, rows), rng=streams):
            yield last[:: self.of]
        _, known = page(len(rows), begun, self.own.length, int(system.codec.length), last.device)
        worth = self.worth(system, last, known[:, : last.shape[1]], told)
        best = worth.view(n, self.of).argmax(1) + self.of * torch.arange(n, device=last.device)
        yield cut(system.codec, self.own.rules.stop, last[best], leading(known[best]))

    def worth(self, system: System, code: Code, known: Tensor, cond: Condition | None) -> Tensor:
        """What each text [m,T] counts for, the stop string that ended it and all: float[m]."""
        if self.own.rules.stop:
            code = through(system.codec, self.own.rules.stop, code, leading(known))
        known = torch.nn.functional.pad(known, (0, code.shape[1] - known.shape[1]))
        ends = (ending(code, system.codec) & ~known).long()
        counted = ~known & (ends.cumsum(1) == ends) & (code != IGNORE)
        logs = said(system.steady("main"), code, cond, system.codec, counted)
        return logs.nansum(1) / counted.sum(1).clamp(min=1) ** self.length_penalty
