"""Symbols dissolve by being masked, one by one, until nothing is known; a denoiser guesses all that is hidden at once.

Knows symbols and the mask, not what they mean: masked image and language models and absorbing diffusion are this one process.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.contracts import Code, Condition, Network
from maquette.streams import Streams

SCHEDULES = ("cosine", "linear")


@dataclass(frozen=True)
class Masked:
    """Absorbing discrete diffusion (Austin 2021, sec. 3.1) with MaskGIT's mask schedule (Chang 2022, sec. 3.3).

    At time t a share `share(t)` of a row's symbols is masked; t = 1 hides all of them, t = 0 none.

    Args:
        symbols: how many symbols there are; `symbols` itself is the mask.
        schedule: "cosine" spends most times on heavily masked rows (share = sin(pi t / 2)), "linear" spends them evenly.
        draws: maskings per row that the likelihood bound averages.

    Raises:
        ValueError: an unknown schedule, or fewer than one symbol or draw.
    """

    symbols: int
    schedule: str = "cosine"
    draws: int = 8

    bound: ClassVar[str] = "any-order ELBO"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            near = difflib.get_close_matches(str(self.schedule), SCHEDULES, 1, 0.0)[0]
            raise ValueError(f"schedule is {self.schedule!r}; allowed are {', '.join(SCHEDULES)}, nearest is {near!r}")
        for name in ("symbols", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")

    @property
    def mask(self) -> int:
        """The symbol that hides another."""
        return self.symbols

    def share(self, t: Tensor) -> Tensor:
        """Share of the symbols that is masked at times t."""
        return torch.sin(t * (math.pi / 2)) if self.schedule == "cosine" else t

    def times(self, rng: Streams) -> Tensor:
        """Uniform training times [B]."""
        return rng.uniform()

    def grid(self, steps: int) -> Tensor:
        """Sampling times [steps + 1], evenly from 1 to 0."""
        return torch.linspace(1, 0, steps + 1)

    def prior(self, shape: tuple[int, ...], rng: Streams) -> Tensor:
        """All masked: int64[B, *shape]."""
        return torch.full((len(rng), *shape), self.mask, dtype=torch.int64, device=rng.keys.device)

    def corrupt(self, x: Code, t: Tensor, rng: Streams) -> Tensor:
        """int64[B,T] with exactly ceil(share(t) * T) symbols of each row masked, at least one, which ones at random."""
        count = (self.share(t) * x.shape[1]).ceil().clamp(1, x.shape[1])
        return self.hide(x, count, rng)

    def hide(self, x: Code, count: Tensor, rng: Streams) -> Tensor:
        """int64[B,T] with `count` [B] symbols of each row masked, every choice of them equally likely."""
        return x.masked_fill(rng.rank(x.shape[1]) < count[:, None], self.mask)

    def denoise(self, net: Network, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Logits [B,T,V] of every symbol. The network is not told t: the masks themselves show it."""
        return net(x_t, cond=cond)[..., : self.symbols]

    def distance(self, guess: Tensor, x: Code, x_t: Tensor, t: Tensor) -> Tensor:
        """Cross-entropy of the masked symbols in nats [B], over the number that is masked on average (Chang 2022, eq. 1)."""
        mean = 2 / math.pi if self.schedule == "cosine" else 0.5
        return self._hidden_nats(guess, x, x_t) / (mean * x.shape[1])

    def nats(self, net: Network, x: Code, cond: Condition | None, rng: Streams) -> Tensor:
        """An unbiased estimate, in nats [B], of the bound on -log p(x) averaged over all orders of writing the symbols.

        T * E_k[1/k * sum over k masked symbols of their cross-entropy], k uniform on 1 .. T (Hoogeboom 2022, eq. 4).
        `draws` values of k per row, spread evenly over 1 .. T.
        """
        length, total = x.shape[1], torch.zeros(len(x), device=x.device)
        shift = rng.uniform()
        for i in range(self.draws):
            place = (shift + i) / self.draws
            count = (place * length).floor().clamp(max=length - 1) + 1
            x_t = self.hide(x, count, rng)
            total += self._hidden_nats(self.denoise(net, x_t, place, cond), x, x_t) * length / count
        return total / self.draws

    def _hidden_nats(self, logits: Tensor, x: Code, x_t: Tensor) -> Tensor:
        """-log p of the masked symbols, summed: [B]."""
        each = F.cross_entropy(logits.transpose(1, 2).float(), x, reduction="none")
        return (each * (x_t == self.mask)).sum(1)
