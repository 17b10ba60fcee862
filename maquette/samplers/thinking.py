"""How long a text thinks before it answers: what ends thinking is written once a budget is spent. Knows symbols, no network.

Everything here is a function of the page alone, as all rules are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import Dials
from maquette.samplers.writing import check

if TYPE_CHECKING:
    from maquette.system import System

CLOSES = "</think>"  # where it is a symbol and nothing else is said


@dataclass(frozen=True)
class Thinking(Dials):
    """Thinking is what is written before `closes`, or, where answers are tries, all tries but the last (Muennighoff 2025,
    arXiv:2501.19393, sec. 3.1: budget forcing).

    Args:
        budget: symbols of thinking at most: behind them `closes` is written, whatever the network would; without it, no further
            `again`, so that the try at hand is the last. -1 = as many as it likes.
        waits: so many `again` at least: each stands in the place of what would have ended thinking before; 0 = it ends freely.
        closes: what ends thinking, a text; "" = </think> where that is a symbol, or the text's end where there is `again`.
        again: what thinking goes on with: what parts tries, ";", or "Wait".
    """

    budget: int = -1
    waits: int = 0
    closes: str = ""
    again: str = ""

    def __post_init__(self) -> None:
        check("budget", self.budget, -1, float("inf"), "symbols of thinking, -1 (as many as it likes) or more")
        check("waits", self.waits, 0, float("inf"), "0 (thinking ends freely) or more")
        if self.waits and not self.again:
            raise ValueError(f"waits is {self.waits}, and nothing is said that thinking goes on with; name it: again=Wait")

    @property
    def any(self) -> bool:
        return self.budget >= 0 or self.waits > 0


class Thought:
    """A budget at work on pages of one system.

    Raises:
        ValueError: it makes no texts, nothing ends its thinking, or what is written in the place of an end is no symbol.
    """

    def __init__(self, system: System, thinking: Thinking):
        codec: Any = system.codec
        if codec.field != "text":
            raise ValueError(f"this run makes {codec.field}s; budget and waits are for text")
        self.budget, self.waits = thinking.budget, thinking.waits
        closes, again, own = codec.tokenize([thinking.closes, thinking.again, CLOSES], special=True)
        if not closes and len(own) == 1:
            closes = own
        if not closes and not again:
            raise ValueError(
                f"budget is {self.budget}, and nothing says what ends this run's thinking: {CLOSES} is no symbol of it; "
                "name a text: --set closes=..., or, of answers that are tries, what parts them: --set again=..."
            )
        self.ends = closes or list(codec.ends)
        if self.waits and (len(again) != 1 or len(closes) > 1):
            name, text, count = (
                ("again", thinking.again, len(again)) if len(again) != 1 else ("closes", thinking.closes, len(closes))
            )
            raise ValueError(
                f"waits puts a symbol in the place of another, and {name}, {text!r}, is {count} symbols; it must be one"
            )
        self.closes, self.again = closes, again

    def __call__(self, logits: Tensor, code: Tensor, place: int, known: Tensor) -> Tensor:
        """Logits [n,V] of the symbol at `place` of a page int64[n,T], of which bool[n,T] was given."""
        own = ~known[:, :place]
        over, begun = self._closed(code[:, :place], own)
        spent = ~known[:, place] & (own.sum(1) >= self.budget) if self.budget >= 0 else torch.zeros_like(over)
        if self.waits:
            few = ((code[:, :place] == self.again[0]) & own).sum(1) < self.waits
            due, moved = (few & ~over & ~spent & ~known[:, place])[:, None], [*self.ends, self.again[0]]
            chance = logits[:, moved].logsumexp(1, keepdim=True)
            logits = logits.index_fill(1, logits.new_tensor(self.ends, dtype=torch.int64), -torch.inf).where(due, logits)
            logits[:, self.again[:1]] = torch.where(due, chance, logits[:, self.again[:1]])
        if self.closes:
            next_ = code.new_tensor(self.closes)[begun][:, None]
            only = torch.full_like(logits, -torch.inf).scatter_(1, next_, 0.0)
            return torch.where((spent & ~over)[:, None], only, logits)
        logits[:, self.again[0]] = logits[:, self.again[0]].masked_fill(spent, -torch.inf)
        return logits

    def _closed(self, code: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Of pages int64[n,t], whose own symbols are marked: bool[n], whether what ends thinking was written; int64[n], how many
        symbols of it a page ends with."""
        over, begun = torch.zeros_like(own[:, :1]).any(1), torch.zeros(len(code), dtype=torch.int64, device=code.device)
        if not self.closes:
            return over, begun
        count = len(self.closes)
        same = [(code == symbol) & own for symbol in self.closes]  # [n,t] each
        whole = code.shape[1] - count + 1
        if whole > 0:
            over = torch.stack([each[:, i : i + whole] for i, each in enumerate(same)]).all(0).any(1)
        for size in range(1, min(count, code.shape[1] + 1)):
            begun = torch.where(torch.stack([same[i][:, i - size] for i in range(size)]).all(0), size, begun)
        return over, begun


FREELY = Thinking()
