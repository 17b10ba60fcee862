"""Symbols dissolve by being masked, one by one, until nothing is known; a denoiser guesses all that is hidden at once.

Knows symbols and the mask, not what they mean: masked image and language models and absorbing diffusion are this one process.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Condition, Network
from maquette.nn.entropy import each_cross_entropy
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

    def hide(self, x: Code, count: Tensor, rng: Streams, given: Tensor | None = None) -> Tensor:
        """int64[B,T] with `count` [B] symbols of each row masked; every choice beyond the first `given` is equally likely."""
        turn = rng.rank(x.shape[1])
        if given is not None:
            turn = turn.masked_fill(torch.arange(x.shape[1], device=x.device) < given[:, None], x.shape[1]).argsort(1).argsort(1)
        return x.masked_fill(turn < count[:, None], self.mask)

    def fill(self, net: Network, code: Code, cond: Condition | None = None) -> Tensor:
        """Logits [B,T,V] of the symbols of a code in which IGNORE hides some."""
        away = code == IGNORE
        return self.denoise(net, code.masked_fill(away, self.mask), away.float().mean(1), cond)

    def denoise(self, net: Network, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Logits [B,T,V] of every symbol. The network is not told t: the masks themselves show it."""
        return net(x_t, cond=cond)[..., : self.symbols]

    def distance(self, guess: Tensor, x: Code, x_t: Tensor, t: Tensor) -> Tensor:
        """Cross-entropy of the masked symbols in nats [B], over the number that is masked on average (Chang 2022, eq. 1)."""
        mean = 2 / math.pi if self.schedule == "cosine" else 0.5
        return self._hidden_nats(guess, x, x_t) / (mean * x.shape[1])

    def nats(self, net: Network, x: Code, cond: Condition | None, rng: Streams, given: Tensor | None = None) -> Tensor:
        """An unbiased estimate, in nats [B], of the bound on -log p(x) averaged over all orders of writing the symbols.

        T * E_k[1/k * sum over k masked symbols of their cross-entropy], k uniform on 1 .. T (Hoogeboom 2022, eq. 4).
        `draws` values of k per row, spread evenly over 1 .. T. The first `given` [B] symbols of a row are known and cost nothing.
        """
        length: Tensor = torch.full((len(x),), x.shape[1], device=x.device)
        length, total = length if given is None else length - given, torch.zeros(len(x), device=x.device)
        shift = rng.uniform()
        for i in range(self.draws):
            place = (shift + i) / self.draws
            count = torch.minimum((place * length).floor(), length - 1) + 1
            x_t = self.hide(x, count, rng, given)
            total += self._hidden_nats(self.denoise(net, x_t, place, cond), x, x_t) * length / count
        return total / self.draws

    def _hidden_nats(self, logits: Tensor, x: Code, x_t: Tensor) -> Tensor:
        """-log p of the masked symbols, summed: [B]."""
        return each_cross_entropy(logits, x.masked_fill(x_t != self.mask, IGNORE)).sum(1)


@dataclass(frozen=True)
class Cloze:
    """Guess what some of a text was, BERT's way (Devlin 2018, sec. 3.1): of the symbols that are asked, most are masked, some are
    exchanged for others and some stay, so that a representation must be good of every symbol, not of masks alone.

    Only for learning: no time dissolves everything. A network that learnt so is sampled from by `Masked`.

    Args:
        symbols: how many symbols there are; `symbols` itself is the mask.
        asked: share of a row's symbols that are guessed.
        exchanged: share of those for which another symbol stands.
        kept: share of those that stay.

    Raises:
        ValueError: shares outside 0 .. 1.
    """

    symbols: int
    asked: float = 0.15
    exchanged: float = 0.1
    kept: float = 0.1

    bound: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not 0 < self.asked <= 1 or min(self.exchanged, self.kept) < 0 or self.exchanged + self.kept > 1:
            raise ValueError(
                f"shares lie in 0 .. 1: asked {self.asked}, of those exchanged {self.exchanged} and kept {self.kept}"
            )

    @property
    def mask(self) -> int:
        """The symbol that hides another."""
        return self.symbols

    def times(self, rng: Streams) -> Tensor:
        """The share that is asked, [B]: always the same."""
        return torch.full((len(rng),), self.asked, device=rng.keys.device)

    def grid(self, steps: int) -> Tensor:
        return torch.linspace(self.asked, 0, steps + 1)

    def prior(self, shape: tuple[int, ...], rng: Streams) -> Tensor:
        """All masked: int64[B, *shape]."""
        return torch.full((len(rng), *shape), self.mask, dtype=torch.int64, device=rng.keys.device)

    def corrupt(self, x: Code, t: Tensor, rng: Streams) -> Tensor:
        """int64[B,T] with about t T symbols of each row asked: what stands there in their place, plus symbols + 1.

        The mark says what the loss is of, also where a symbol stays; `denoise` takes it off before the network sees any.
        """
        length = x.shape[1]
        count = (t * length).round().clamp(1, length)[:, None]
        place, what = rng.rank(length), rng.uniform(length)
        other = (rng.uniform(length) * self.symbols).long().clamp(max=self.symbols - 1)
        shown = torch.where(what < self.kept, x, torch.where(what < self.kept + self.exchanged, other, self.mask))
        return torch.where(place < count, shown + self.symbols + 1, x)

    def denoise(self, net: Network, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Logits [B,K,V] of the symbols asked."""
        only, shown = self._asked(x_t), x_t % (self.symbols + 1)
        if getattr(net, "selective", False):
            return net(shown, cond=cond, only=only)[..., : self.symbols]
        found = net(shown, cond=cond)[..., : self.symbols]
        return found.gather(1, only[..., None].expand(-1, -1, self.symbols))

    def _asked(self, x_t: Tensor) -> Tensor:
        """Where the symbols asked stand: int64[B,K], as many in every row."""
        return (x_t > self.symbols).nonzero()[:, 1].view(len(x_t), -1)

    def fill(self, net: Network, code: Code, cond: Condition | None = None) -> Tensor:
        """Logits [B,T,V] of the symbols of a code in which IGNORE hides some."""
        return net(code.masked_fill(code == IGNORE, self.mask), cond=cond)[..., : self.symbols]

    def distance(self, guess: Tensor, x: Code, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean cross-entropy of the symbols asked, in nats [B]."""
        return each_cross_entropy(guess, x.gather(1, self._asked(x_t))).mean(1)


@runtime_checkable
class Filling(Protocol):
    """A process whose network says what is hidden anywhere in a code."""

    def fill(self, net: Network, code: Code, cond: Condition | None = None) -> Tensor:
        """Logits [B,T,V] of the symbols of a code in which IGNORE hides some."""
