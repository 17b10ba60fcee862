"""Contrastive search: of the likeliest symbols the one that says something new. Knows the stream that a network's head reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maquette.contracts import IGNORE, Code, Condition
from maquette.samplers.guidance import guided
from maquette.samplers.rules import FREE, Rules, steering
from maquette.samplers.writing import Reader, Writer, check, ending, leading, page, rows_of
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


PIECE = 64  # symbols of a prompt that are read together: their scores take as much room


class Overheard:
    """What a network's last normalisation gives its head at every call, as unit vectors float32[B,T,D].

    Raises:
        ValueError: the network ends in none.
    """

    def __init__(self, net: Any, rows: int):
        while not hasattr(net, "norm") and hasattr(net, "net"):  # a wrapper's
            net = net.net
        if not isinstance(getattr(net, "norm", None), nn.Module):
            raise ValueError("contrastive search compares what the last normalisation gives; this run's network has none")
        self.rows, self.heard = rows, torch.zeros(0)
        self.hook = net.norm.register_forward_hook(self.hear)

    def hear(self, module: nn.Module, inputs: Any, out: Tensor) -> None:
        self.heard = nn.functional.normalize(out[: self.rows].float(), dim=-1)

    def of(self, reader: Reader, first: int, last: int) -> Tensor:
        """What was heard as the symbols at first .. last - 1 were foreseen; without a memory a whole page was read for them."""
        return (
            self.heard[:, first - last :] if reader.state is not None else self.heard[:, first - reader.skip : last - reader.skip]
        )


@dataclass(frozen=True)
class Contrastive(Writer):
    """(1 - alpha) p(v) - alpha max cos(h_v, h_j) is largest, of the likeliest v, over all that was read before (Su 2022, eq. 5).

    Nothing is drawn at random. The last symbol of a full page, behind which nothing can be read, is the likeliest.

    Args:
        candidates: the likeliest symbols, of which one is taken; 1 is greedy.
        alpha: weight of being unlike what was said, 0 .. 1; 0 is greedy.
        length: symbols of a sample, prompt included; 0 = the codec's own length.
        guidance: classifier-free guidance scale on the logits; 1 = none.
        rules: what may be written, and where it ends.
    """

    candidates: int = 4
    alpha: float = 0.6
    length: int = 0
    guidance: float = 1.0
    rules: Rules = FREE

    def __post_init__(self) -> None:
        check("candidates", self.candidates, 1, float("inf"), "1 (greedy) or more")
        check("alpha", self.alpha, 0, 1, "a share, 0 (greedy) .. 1")
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
        """Growing drafts int64[n,t]; starts as Autoregressive has them."""
        k, bos, device = self.candidates, int(system.codec.bos), rng.keys.device
        code, known = page(n, start, self.length, int(system.codec.length), device)
        length, first, wide = code.shape[1], int(leading(known).min()), torch.arange(n, device=device).repeat_interleave(k)
        if first == length:
            yield code
            return
        steer = steering(system, known, self.rules)
        net = guided(system.steady("main"), self.guidance, rows_of(null, wide))
        overheard = Overheard(net, n * k)
        try:
            reader = Reader(net, rows_of(cond, wide), system.codec, n * k, length, first)
            ended, places = torch.zeros(n, dtype=torch.bool, device=device), range(reader.skip, first + 1, PIECE)
            seen: list[Tensor] = []
            for place in places:  # all is scored, so that all is heard
                last = min(place + PIECE, first + 1)
                logits = reader.span(code[wide], place, last)[::k, -1]
                seen.append(overheard.of(reader, place, last)[::k])
            past = torch.cat(seen, 1)
            for place in range(first, length):
                chance = (logits if steer is None else steer(logits, code, place)).float().softmax(-1)
                top, symbols = chance.topk(min(k, chance.shape[-1]))
                symbols = nn.functional.pad(symbols, (0, k - symbols.shape[1]), value=bos)
                fixed = known[:, place] | ended
                symbols = torch.where(fixed[:, None], torch.where(known[:, place], code[:, place], bos)[:, None], symbols)
                best = torch.zeros(n, dtype=torch.int64, device=device)
                if place + 1 < length:
                    tried = code[wide]
                    tried[:, place] = symbols.flatten()
                    after = reader.next(tried, place + 1)
                    h = overheard.of(reader, place + 1, place + 2).view(n, k, -1)
                    worth = (1 - self.alpha) * top - self.alpha * (h @ past.mT).amax(-1)[:, : top.shape[1]]
                    best = worth.masked_fill(top == 0, -torch.inf).argmax(1).masked_fill(fixed, 0)
                    chosen = best + k * torch.arange(n, device=device)
                    reader.select(chosen[wide])
                    logits, past = after[chosen], torch.cat([past, h[torch.arange(n, device=device), best][:, None]], 1)
                code[:, place] = symbols.gather(1, best[:, None])[:, 0]
                ended |= ending(code[:, place], system.codec) & ~known[:, place]
                if steer is not None:
                    ended = steer.over(code, place, ended)
                if bool(ended.all()) or place + 1 == length:
                    code.masked_fill_(code == IGNORE, bos)
                    yield code if steer is None else steer.cut(code)
                    return
                yield code[:, : place + 1].clone()
        finally:
            overheard.hook.remove()
