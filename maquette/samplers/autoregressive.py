"""One symbol after another, each drawn from a causal network's distribution over what comes next.

Knows the network's convention (row t scores the symbol after x_t) and its memory, if it has one; not what the symbols mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Condition
from maquette.samplers.choosing import NONE, Penalties, min_p, top_k, top_p, typical
from maquette.samplers.guidance import guided
from maquette.samplers.rules import FREE, Rules, cut, steering
from maquette.samplers.writing import Reader, Writer, check, ending, leading, page
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@dataclass(frozen=True)
class Autoregressive(Writer):
    """Ancestral sampling with the usual ways of leaving out unlikely symbols: penalties and biases on the logits, then what a
    grammar forbids, then temperature, top_k, top_p, min_p, typical.

    Args:
        temperature: divides the logits; 1 = the model's own distribution, 0 = always the likeliest symbol.
        top_k: keep the k likeliest symbols (Fan 2018); 0 = all.
        top_p: keep the fewest symbols that hold this probability together (Holtzman 2019); 1 = all.
        min_p: keep symbols at least this likely relative to the likeliest (Nguyen 2024); 0 = all.
        length: symbols of a sample, prompt included; 0 = the codec's own length. A longer start makes a longer sample.
        guidance: classifier-free guidance scale on the logits; 1 = none.
        typical: keep the symbols whose surprise is nearest the entropy, as few as hold this probability (Meister 2022); 1 = all.
        penalties: less of what has been said.
        rules: what may be written, and where it ends.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    length: int = 0
    guidance: float = 1.0
    typical: float = 1.0
    penalties: Penalties = NONE
    rules: Rules = FREE

    def __post_init__(self) -> None:
        check("temperature", self.temperature, 0, 1e9, "0 (greedy) or more")
        check("top_k", self.top_k, 0, float("inf"), "0 (all symbols) or more")
        check("top_p", self.top_p, 1e-9, 1, "a probability above 0, up to 1 (all symbols)")
        check("min_p", self.min_p, 0, 1, "a share of the likeliest symbol's probability, 0 (all symbols) .. 1")
        check("typical", self.typical, 1e-9, 1, "a probability above 0, up to 1 (all symbols)")
        check("length", self.length, 0, float("inf"), "0 (the codec's own) or more")

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
        """Growing drafts int64[n,t]; the last is [n,T], each row ending before its first stop string.

        A row that draws a symbol that ends a text has ended: the rest of it is bos. A symbol depends on its row's stream, its
        position and its own past alone.

        Args:
            start: int64[n,S], IGNORE where the sampler must write; what lies beyond S is written too.
        """
        for code in self.write(system, n, start=start, cond=cond, null=null, rng=rng):
            yield code
        if self.rules.stop:
            _, known = page(n, start, self.length, int(system.codec.length), code.device)
            yield cut(system.codec, self.rules.stop, code, leading(known))

    def write(
        self,
        system: System,
        n: int,
        *,
        start: Code | None = None,
        cond: Condition | None = None,
        null: Condition | None = None,
        rng: Streams,
    ) -> Iterator[Code]:
        """As `draw`, but the last draft, too, has all that was written: the stop string that ended a row stands in it."""
        net, bos = guided(system.steady("main"), self.guidance, null), int(system.codec.bos)
        code, known = page(n, start, self.length, int(system.codec.length), rng.keys.device)
        length, first = code.shape[1], int(leading(known).min())
        reader, steer = Reader(net, cond, system.codec, n, length, first), steering(system, known, self.rules, self.penalties)
        ended = torch.zeros(n, dtype=torch.bool, device=code.device)
        if first == length:
            yield code
        for place in range(first, length):
            row = reader.next(code, place)
            drawn = torch.where(ended, bos, self.choose(row if steer is None else steer(row, code, place), rng.fork(place)))
            ended |= ending(drawn, system.codec) & ~known[:, place]
            code[:, place] = torch.where(known[:, place], code[:, place], drawn)
            if steer is not None:
                ended = steer.over(code, place, ended)
            if bool(ended.all()) or place + 1 == length:
                code.masked_fill_(code == IGNORE, bos)
                yield code
                return
            yield code[:, : place + 1].clone()

    def choose(self, logits: Tensor, rng: Streams) -> Tensor:
        """One symbol per row: [n,V] -> int64[n]."""
        return logits.argmax(-1) if self.temperature == 0 else rng.choose(self.trim(logits))

    def trim(self, logits: Tensor) -> Tensor:
        """The logits [n,V] that symbols are drawn by: divided by the temperature, what is left out at -inf."""
        if self.temperature != 1:
            logits = (logits.float() - logits.amax(-1, keepdim=True)) / self.temperature  # 0 at most: never overflows
        if self.top_k:
            logits = top_k(logits.float(), self.top_k)
        if self.top_p < 1:
            logits = top_p(logits.float(), self.top_p)
        if self.min_p > 0:
            logits = min_p(logits.float(), self.min_p)
        if self.typical < 1:
            logits = typical(logits.float(), self.typical)
        return logits
