"""What is told to a transformer and stands before its first symbol. Knows symbols and vectors; not what they mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maquette.contracts import Condition


@dataclass(frozen=True)
class Prefix:
    """What is told, and stands before the first symbol: each sees those before it, and all that follows sees them all.

    Args:
        length: L, of every row.
        vocab: symbols that may be told; 0 = none are, but vectors of the network's width.
        scored: told symbols are scored as well (`Transformer.read`).
    """

    length: int
    vocab: int = 0
    scored: bool = False


class Heard(nn.Module):
    """Told symbols int64[B,L], and which are a text's bool[B,L], by tables of their own -> [B,L,D]; or vectors as they are.

    Behind a text's end each place has a filling vector of its own (Ramesh 2021, sec. 2.2).

    Raises:
        ValueError: they were not told.
    """

    def __init__(self, prefix: Prefix, width: int):
        super().__init__()
        self.length, self.width, self.head = prefix.length, width, None
        self.embed = nn.Embedding(prefix.vocab, width) if prefix.vocab else None
        if self.embed is not None:
            self.places, self.blanks = nn.Embedding(prefix.length, width), nn.Embedding(prefix.length, width)
            self.head = nn.Linear(width, prefix.vocab, bias=False) if prefix.scored else None

    def forward(self, cond: Condition | None) -> Tensor:
        tokens = cond.tokens if cond is not None else None
        vectors = tokens is not None and tokens.is_floating_point()
        if cond is None or tokens is None or tuple(tokens.shape[1:]) != self.wanted or vectors != (self.embed is None):
            told = "nothing" if tokens is None else f"{str(tokens.dtype).removeprefix('torch.')}{[*tokens.shape]}"
            what = "vectors" if self.embed is None else "symbols"
            raise ValueError(f"this network must be told {what} {[*self.wanted]} a row, as cond.tokens, and is told {told}")
        if self.embed is None:
            return tokens
        h = self.embed(tokens)
        if cond.mask is not None:
            h = torch.where(cond.mask[..., None], h, self.blanks.weight.to(h.dtype))
        return h + self.places.weight

    @property
    def wanted(self) -> tuple[int, ...]:
        """The shape of a row's tokens."""
        return (self.length, self.width) if self.embed is None else (self.length,)
