"""One symbol after another, each drawn from a causal network's distribution over what comes next.

Knows the network's convention (row t scores the symbol after x_t) and its memory, if it has one; not what the symbols mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Condition
from maquette.samplers.guidance import guided
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


def _within(name: str, value: float, low: float, high: float, what: str) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {what}, not {value}; nearest is {min(max(value, low), high):g}")


@dataclass(frozen=True)
class Autoregressive:
    """Ancestral sampling with the usual ways of leaving out unlikely symbols, applied in the order written here.

    Args:
        temperature: divides the logits; 1 = the model's own distribution, 0 = always the likeliest symbol.
        top_k: keep the k likeliest symbols (Fan 2018); 0 = all.
        top_p: keep the fewest symbols that hold this probability together (Holtzman 2019); 1 = all.
        min_p: keep symbols at least this likely relative to the likeliest (Nguyen 2024); 0 = all.
        length: symbols of a sample, prompt included; 0 = the codec's own length. A longer start makes a longer sample.
        guidance: classifier-free guidance scale on the logits; 1 = none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    length: int = 0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0, float("inf"), "0 (greedy) or more")
        _within("top_k", self.top_k, 0, float("inf"), "0 (all symbols) or more")
        _within("top_p", self.top_p, 1e-9, 1, "a probability above 0, up to 1 (all symbols)")
        _within("min_p", self.min_p, 0, 1, "a share of the likeliest symbol's probability, 0 (all symbols) .. 1")
        _within("length", self.length, 0, float("inf"), "0 (the codec's own) or more")

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
        """Growing drafts int64[n,t]; the last is [n,T].

        A row that draws a symbol that ends a text has ended: the rest of it is bos. A symbol depends on its row's stream, its
        position and its own past alone.

        Args:
            start: int64[n,S], IGNORE where the sampler must write; what lies beyond S is written too.
        """
        net, bos = guided(system.steady("main"), self.guidance, null), int(system.codec.bos)
        code = self._canvas(n, start, int(system.codec.length), rng.keys.device)
        length, known = code.shape[1], code != IGNORE
        first = int(known.all(0).long().cumprod(0).sum())
        skip = int(first > 0 and not system.codec.begins)
        inputs = torch.cat([code.new_full((n, 1), bos), code[:, :-1]], 1)[:, skip:]
        inputs = inputs.masked_fill(inputs == IGNORE, bos)
        over = torch.tensor(system.codec.ends, device=code.device)
        memory = net.begin(n, length)
        ended, seen = torch.zeros(n, dtype=torch.bool, device=code.device), 0
        if first == length:
            yield code
        for place in range(first, length):
            row, seen = self._look(net, inputs, seen, place - skip, cond, memory), place - skip + 1
            drawn = torch.where(ended, bos, self.choose(row, rng.fork(place)))
            ended |= torch.isin(drawn, over) & ~known[:, place]
            code[:, place] = torch.where(known[:, place], code[:, place], drawn)
            if place + 1 < length:
                inputs[:, place + 1 - skip] = code[:, place]
            if bool(ended.all()):
                yield code.masked_fill_(code == IGNORE, bos)
                return
            yield code[:, : place + 1].clone()

    def choose(self, logits: Tensor, rng: Streams) -> Tensor:
        """One symbol per row: [n,V] -> int64[n]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        peaked = (logits.float() - logits.amax(-1, keepdim=True)) / self.temperature  # 0 at most: never overflows
        return rng.choose(self.trim(peaked))

    def trim(self, logits: Tensor) -> Tensor:
        """The logits [n,V] with the symbols left out by top-k, top-p and min-p at -inf."""
        out = -torch.inf
        if 0 < self.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[..., -1:], out)
        if self.top_p < 1:
            ranked, order = logits.sort(descending=True, stable=True)
            before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
            logits = logits.masked_fill((before >= self.top_p).scatter(-1, order, before >= self.top_p), out)
        if self.min_p > 0:
            chance = logits.softmax(-1)
            logits = logits.masked_fill(chance < self.min_p * chance.amax(-1, keepdim=True), out)
        return logits

    def _canvas(self, n: int, start: Code | None, own: int, device: torch.device) -> Code:
        """int64[n,T]: the start, IGNORE elsewhere."""
        width = 0 if start is None else start.shape[1]
        length = max(self.length or own, width)
        code = torch.full((n, length), IGNORE, dtype=torch.int64, device=device)
        if start is not None:
            code[:, :width] = start
        return code

    def _look(self, net: Any, inputs: Tensor, seen: int, place: int, cond: Condition | None, memory: Any) -> Tensor:
        """Logits [n,V] of the symbol at `place`: from what is new where the network remembers, else from everything."""
        if memory is None:
            return net(inputs, cond=cond)[:, place]
        return net(inputs[:, seen : place + 1], cond=cond, state=memory)[:, -1]
