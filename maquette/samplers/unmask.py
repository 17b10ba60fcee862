"""Write many symbols at a time into a masked code, those whose turn it is first. Knows masks and logits, not their meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Condition
from maquette.processes.masked import Masked
from maquette.samplers.guidance import guided
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@dataclass(frozen=True)
class Unmask:
    """Iterative parallel decoding (Chang 2022, sec. 3.2): guess all masked symbols, keep some of the guesses, repeat.

    Args:
        process: the masked process the network was trained with.
        steps: calls of the network; as many as there are symbols or more writes one at a time.
        temperature: divides the logits; 1 = the model's own distribution, 0 = always the likeliest symbol.
        guidance: classifier-free guidance scale; 1 = none.
        order: "random" keeps guesses at random (exact, given a step per symbol); "confidence" keeps the surest, as MaskGIT does.
        noise: Gumbel noise on the log-confidences at the first step, falling to 0 at the last (MaskGIT's choice temperature).
    """

    process: Masked
    steps: int = 16
    temperature: float = 1.0
    guidance: float = 1.0
    order: Literal["random", "confidence"] = "random"
    noise: float = 4.5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be 1 or more")
        for name in ("temperature", "noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.order not in ("random", "confidence"):
            raise ValueError(f"order is {self.order!r}; allowed are 'random' and 'confidence'")

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
        """Drafts int64[n,T], IGNORE where nothing is written yet. Symbols that the start knows stay as they are."""
        process, net = self.process, guided(system.steady("main"), self.guidance, null)
        length = start.shape[1] if start is not None and system.codec.whole else int(system.codec.length)
        x = self._canvas(n, start, length, rng.keys.device)
        total = (x == process.mask).sum(1)
        times, fixed = process.grid(self.steps).to(x.device), rng.fork(0).uniform(x.shape[1])
        for step in range(self.steps):
            hidden = x == process.mask
            if not bool(hidden.any()):
                break
            logits = process.denoise(net, x, times[step].expand(n), cond).float()
            guess = self.choose(logits, rng.fork(2 * step + 1))
            surety = logits.log_softmax(-1).gather(-1, guess[..., None])[..., 0]
            wobble = self.noise * times[step] * _gumbel(rng.fork(2 * step + 2).uniform(x.shape[1]))
            turn = surety + wobble if self.order == "confidence" else fixed
            place = turn.masked_fill(~hidden, -torch.inf).argsort(1, descending=True).argsort(1)
            left = self._left(hidden.sum(1), total, process.share(times[step + 1]))
            x = torch.where(hidden & (place < (hidden.sum(1) - left)[:, None]), guess, x)
            yield x.masked_fill(x == process.mask, IGNORE)
        if not bool(total.any()):
            yield x

    def choose(self, logits: Tensor, rng: Streams) -> Tensor:
        """One symbol per place: [n,T,V] -> int64[n,T]."""
        return logits.argmax(-1) if self.temperature == 0 else rng.choose(logits / self.temperature)

    def _left(self, hidden: Tensor, total: Tensor, share: Tensor) -> Tensor:
        """How many of each row's symbols are to stay masked: one fewer where there are steps enough, else by the schedule."""
        planned = torch.minimum((share * total).floor().long(), hidden - 1)
        return torch.where(total <= self.steps, hidden - 1, planned).clamp(min=0)

    def _canvas(self, n: int, start: Code | None, length: int, device: torch.device) -> Code:
        """int64[n,T]: the start, masks where it says "write here" and beyond it."""
        mask = self.process.mask
        if start is None:
            return torch.full((n, length), mask, dtype=torch.int64, device=device)
        if start.shape[1] > length:
            raise ValueError(f"the start holds {start.shape[1]} symbols; a code of this system holds {length}")
        x = torch.nn.functional.pad(start.to(device), (0, length - start.shape[1]), value=IGNORE)
        return x.masked_fill(x == IGNORE, mask)


def _gumbel(uniform: Tensor) -> Tensor:
    return -torch.log(-torch.log(uniform))
