"""Beam search: the likeliest text that can be found by keeping several at once. Knows a network's memory by its rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Condition
from maquette.samplers.choosing import NONE, Penalties
from maquette.samplers.guidance import guided
from maquette.samplers.rules import FREE, Rules, steering
from maquette.samplers.writing import Reader, Writer, check, ending, leading, page, rows_of
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@dataclass
class Finished:
    """The best texts of each row that have ended: scores [n,b], -inf where there is none yet, and pages int64[n,b,T]."""

    scores: Tensor
    pages: Tensor

    def add(self, scores: Tensor, pages: Tensor) -> None:
        """Put [n,m] more beside them, and keep the best b."""
        both, every = torch.cat([self.scores, scores], 1), torch.cat([self.pages, pages], 1)
        self.scores, order = both.topk(self.scores.shape[1])
        self.pages = every.gather(1, order[..., None].expand(-1, -1, every.shape[2]))


@dataclass(frozen=True)
class Beam(Writer):
    """The `beams` likeliest beginnings are kept at every symbol; the best text that has ended is the sample (Sutskever 2014).

    Nothing is drawn at random. The search of a row is over when no beginning can become better than its worst finished text.

    Args:
        beams: beginnings that are kept; 1 is greedy.
        length_penalty: a text's score is its log-probability, divided by its written symbols to this power; 0 = not, above 0
            favours long ones.
        length: symbols of a sample, prompt included; 0 = the codec's own length.
        guidance: classifier-free guidance scale on the logits; 1 = none.
        penalties: less of what has been said.
        rules: what may be written, and where it ends.
    """

    grows = False
    beams: int = 4
    length_penalty: float = 1.0
    length: int = 0
    guidance: float = 1.0
    penalties: Penalties = NONE
    rules: Rules = FREE

    def __post_init__(self) -> None:
        check("beams", self.beams, 1, float("inf"), "1 (greedy) or more")
        check("length_penalty", self.length_penalty, -100, 100, "a power of the length, 0 = none")
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
        """Drafts int64[n,t], the best beginning of each row so far; starts as Autoregressive has them."""
        b, bos, device = self.beams, int(system.codec.bos), rng.keys.device
        page_, known = page(n, start, self.length, int(system.codec.length), device)
        length, first, wide = page_.shape[1], int(leading(known).min()), torch.arange(n, device=device).repeat_interleave(b)
        if first == length:
            yield page_
            return
        net = guided(system.steady("main"), self.guidance, rows_of(null, wide))
        reader = Reader(net, rows_of(cond, wide), system.codec, n * b, length, first)
        steer = steering(system, known, self.rules, self.penalties)
        code, room = page_[wide], (~known).sum(1)
        scores = torch.full((n, b), -torch.inf, device=device)
        scores[:, 0] = 0
        done = Finished(torch.full((n, b), -torch.inf, device=device), page_[:, None].expand(-1, b, -1))
        over = room == 0
        for place in range(first, length):
            logits = reader.next(code, place)
            logs = (logits if steer is None else steer(logits, code, place, wide)).float().log_softmax(-1)
            vocab, written, final = logs.shape[-1], (~known[:, : place + 1]).sum(1), (~known[:, place + 1 :]).sum(1) == 0
            found, index = (scores[..., None] + logs.view(n, b, vocab)).flatten(1).topk(min(2 * b, b * vocab))
            beam, symbol = index // vocab, torch.where(found.isfinite(), index % vocab, bos)
            free = ~known[:, place] & ~over
            ends = ending(symbol, system.codec) | final[:, None]
            pages = code.view(n, b, length).gather(1, beam[..., None].expand(-1, -1, length))
            pages[..., place] = symbol
            if steer is not None and steer.stop:
                rows = torch.arange(n, device=device).repeat_interleave(symbol.shape[1])
                ends = steer.over(pages.flatten(0, 1), place, ends.flatten(), rows).view_as(ends)
            counts = ends & free[:, None] & (torch.arange(symbol.shape[1], device=device) < b)
            worth = found / written.clamp(min=1)[:, None] ** self.length_penalty
            done.add(worth.masked_fill(~counts, -torch.inf), pages)
            kept, order = found.masked_fill(ends, -torch.inf).topk(b)
            stay = torch.arange(b, device=device).expand(n, b)
            beam = torch.where(free[:, None], beam.gather(1, order), stay)
            symbol = torch.where(kept.isfinite() & free[:, None], symbol.gather(1, order), bos)
            scores = torch.where(free[:, None], kept, scores)
            moved = (beam + b * torch.arange(n, device=device)[:, None]).flatten()
            if not torch.equal(moved, torch.arange(n * b, device=device)):
                reader.select(moved)
                code = code[moved]
            code[:, place] = torch.where(known[wide, place], page_[wide, place], symbol.flatten())
            best = scores[:, 0] / (room if self.length_penalty > 0 else written).clamp(min=1) ** self.length_penalty
            over |= (best <= done.scores[:, -1]) | (free & (scores[:, 0] == -torch.inf))
            if bool(over.all()):
                break
            yield code.view(n, b, length)[:, 0, : place + 1].clone()
        last = torch.where(done.scores[:, :1].isfinite(), done.pages[:, 0], page_)
        last = torch.where(known, page_, last.masked_fill(last == IGNORE, bos))
        yield last if steer is None else steer.cut(last)
