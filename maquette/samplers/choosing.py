"""Which of the symbols that may come next are kept, and how likely: from logits to logits. Knows no network and no text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maquette.contracts import Dials
from maquette.samplers.writing import check

OUT = -torch.inf
SOME = (256, 4096)  # symbols looked at before all are sorted: sorting 32,000 takes 100 times as long as finding the first 256


def top_k(logits: Tensor, k: int) -> Tensor:
    """The k likeliest symbols (Fan 2018), and what is as likely as the last of them: [n,V] -> [n,V], -inf elsewhere."""
    if not 0 < k < logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(k).values[..., -1:], OUT)


def top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest symbols that hold probability p together (Holtzman 2020): [n,V] -> [n,V]; of equals the first few."""
    chance = logits.softmax(-1)
    ranked = _ranked(chance, p)
    before = ranked.cumsum(-1) - ranked
    least = ranked.masked_fill(before >= p, torch.inf).amin(-1, keepdim=True)  # the chance of the last that is kept
    equal = chance == least
    room = ((before < p) & (ranked == least)).sum(-1, keepdim=True)
    return logits.masked_fill((chance < least) | (equal & (equal.cumsum(-1) > room)), OUT)


def _ranked(chance: Tensor, p: float) -> Tensor:
    """Chances from the highest down, [n,m]: as many as hold p in every row, and perhaps more."""
    for count in SOME:
        if 4 * count < chance.shape[-1]:
            ranked = chance.topk(count).values
            if bool((ranked.sum(-1) > p).all()):
                return ranked
    return chance.sort(descending=True).values


def min_p(logits: Tensor, share: float) -> Tensor:
    """The symbols at least this likely relative to the likeliest (Nguyen 2024): [n,V] -> [n,V]."""
    chance = logits.softmax(-1)
    return logits.masked_fill(chance < share * chance.amax(-1, keepdim=True), OUT)


def typical(logits: Tensor, mass: float) -> Tensor:
    """The symbols whose surprise is nearest the entropy, as few as hold `mass` (Meister 2022, eq. 10): [n,V] -> [n,V]."""
    logs = logits.log_softmax(-1)
    chance = logs.exp()
    entropy = -(chance * logs).nansum(-1, keepdim=True)
    far = (logs + entropy).abs()
    order = far.argsort(-1)
    held = chance.gather(-1, order).cumsum(-1)
    last = (held < mass).sum(-1, keepdim=True).clamp(max=far.shape[-1] - 1)
    return logits.masked_fill(far > far.gather(-1, order.gather(-1, last)), OUT)


@dataclass(frozen=True)
class Penalties(Dials):
    """Less of what has been said.

    Args:
        repetition: divides the logits above 0 of every symbol on the page, the prompt's too, and multiplies those below (Keskar
            2019, sec. 4.1); 1 = off.
        presence: taken off the logit of every symbol that was written; 0 = off.
        frequency: taken off it as often as it was written; 0 = off.
    """

    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0

    def __post_init__(self) -> None:
        check("repetition", self.repetition, 1e-9, 1e9, "above 0; 1 changes nothing")
        for name in ("presence", "frequency"):
            check(name, getattr(self, name), -1e9, 1e9, "a finite number; 0 changes nothing")

    @property
    def any(self) -> bool:
        return (self.repetition, self.presence, self.frequency) != (1, 0, 0)

    def take(self, logits: Tensor, past: Tensor, known: Tensor) -> Tensor:
        """Logits [n,V] after a page int64[n,t], of which bool[n,t] was given: what is left of them."""
        if self.repetition != 1:
            said = logits.gather(1, past)
            said = torch.where(said < 0, said * self.repetition, said / self.repetition)
            logits = logits.scatter(1, past, said)
        if self.presence or self.frequency:
            count = torch.zeros_like(logits).scatter_add_(1, past, (~known).to(logits.dtype))
            logits = logits - self.frequency * count - self.presence * (count > 0)
        return logits


NONE = Penalties()
