"""What became of the symbols of texts: how likely each was, and the pieces that can be shown while a text is being drawn.

Knows systems whose samplers write one symbol after another; not where anything is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from maquette.contracts import IGNORE, Batch, Code, Codec
from maquette.samplers.writing import ending, own, said

if TYPE_CHECKING:
    from maquette.system import System


@torch.no_grad()
def spoken(system: System, made: Batch, start: Code | None = None) -> dict[str, list[Any]]:
    """Of each sample: "symbols", the texts of those that were written, without the end; "logprobs", how likely the network found
    each, in nats, given what stands before it and what it was told (its own opinion: no temperature, no guidance, nothing left
    out); "finished", whether the sample ended before there was no more room.

    Args:
        made: samples, as `System.sample` gives them.
        start: what they grew from.
    """
    code = made["code"].to(system.device)
    known = torch.zeros_like(code, dtype=torch.bool)
    if start is not None:
        known[:, : start.shape[1]] = start.to(code.device)[:, : code.shape[1]] != IGNORE
    counted = own(code, known, system.codec)
    told = system.condition(made) if system.conditioner is not None else None
    logs = said(system.steady("main"), code, told, system.codec, counted)
    rows = [(row[chosen], log[chosen]) for row, log, chosen in zip(code, logs, counted, strict=True)]
    ended = ((ending(code, system.codec) & ~known) | (code == IGNORE)).any(1)
    return {
        "symbols": [[system.codec.decode(symbol[None, None])[0] for symbol in row] for row, _ in rows],
        "logprobs": [log.tolist() for _, log in rows],
        "finished": ended.tolist(),
    }


class Pieces:
    """Tells of texts as they grow, a piece at a time: what is told is never taken back.

    Args:
        codec: of texts.
        tell: called with a sample's number and the next piece of its text.
        stop: stop strings; what may be the beginning of one is held back.
        grows: every draft is the beginning of the next; else nothing is told before a text is finished.
        after: symbols that a sample begins with and that are not told.
    """

    def __init__(
        self, codec: Codec, tell: Callable[[int, str], None], stop: tuple[str, ...] = (), grows: bool = True, after: int = 0
    ):
        self.codec, self.tell, self.stop, self.grows, self.after = codec, tell, stop, grows, after
        self.row, self.told, self.text = 0, 0, ""

    def __call__(self, drawn: int, row: int, code: Code) -> None:
        """Hear of a draft int64[1,t] of a sample."""
        if row != self.row:
            self.finish()
            self.row, self.told = row, 0
        self.text = self.codec.decode(code[:, self.after :])[0]
        if self.grows:
            self._tell(len(self.text) - self.held())

    def held(self) -> int:
        """Characters at the end that may yet change, or turn out to belong to a stop string."""
        broken = len(self.text) - len(self.text.rstrip("\ufffd"))
        whole = self.text[: len(self.text) - broken]
        ended = [place for stop in self.stop if (place := whole.find(stop, self.told)) >= 0]
        if ended:
            return len(self.text) - min(ended)
        begun = (size for stop in self.stop for size in range(1, len(stop)) if whole.endswith(stop[:size]))
        return broken + max(begun, default=0)

    def finish(self) -> None:
        """The newest draft was the sample."""
        self._tell(len(self.text))

    def _tell(self, end: int) -> None:
        if end > self.told:
            self.tell(self.row, self.text[self.told : end])
            self.told = end
