"""DDPM's discrete chain: what each of its steps keeps of the data, and which steps sampling visits. Numbers in, numbers out.

A chain has steps 1 .. total, step 0 is the data; published models count theirs from 0, so their index k is step k + 1.
Knows no time and no network.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor


class Curve(Hashable, Protocol):
    """How fast a chain forgets."""

    def kept(self, total: int) -> Tensor:
        """alpha^2 after each of `total` steps, falling [total], in the precision that it was made in."""


class Spacing(Protocol):
    """Which steps sampling visits. `whole`: none but whole ones, so that nothing is ever read between two."""

    @property
    def whole(self) -> bool: ...

    def visits(self, steps: int, chain: Chain) -> Tensor:
        """Steps of the chain, falling, float64 [steps]; the data is not among them."""

    def ratio(self, step: Tensor, chain: Chain) -> Tensor:
        """sigma / alpha at a step that may lie between two, in its shape."""


@dataclass(frozen=True)
class Rise:
    """beta rises from `first` to `last`, its `power`-th root in even steps (1: Ho 2020, sec. 4; 2: Rombach 2022).

    Args:
        single: made in single precision, as published models' tables were; in double the end differs in the sixth digit.
    """

    first: float = 1e-4
    last: float = 0.02
    power: float = 1.0
    single: bool = False

    def kept(self, total: int) -> Tensor:
        kind = torch.float32 if self.single else torch.float64
        root = torch.linspace(self.first ** (1 / self.power), self.last ** (1 / self.power), total, dtype=kind)
        return (1 - root**self.power).cumprod(0)


@dataclass(frozen=True)
class Arc:
    """alpha^2 falls as a squared cosine (Nichol & Dhariwal 2021, eq. 17), in betas of at most `most`; single precision."""

    offset: float = 0.008
    most: float = 0.999

    def kept(self, total: int) -> Tensor:
        level = [math.cos((k / total + self.offset) / (1 + self.offset) * math.pi / 2) ** 2 for k in range(total + 1)]
        betas = [min(1 - after / before, self.most) for before, after in pairwise(level)]
        return (1 - torch.tensor(betas, dtype=torch.float32)).cumprod(0)


@dataclass(frozen=True)
class Emptied:
    """Another curve, brought to forget all at its end (Lin 2023, alg. 1).

    Args:
        least: alpha^2 that is kept at the end all the same, where sigma / alpha has to be finite.
    """

    curve: Curve
    least: float = 0.0

    def kept(self, total: int) -> Tensor:
        alpha = self.curve.kept(total).sqrt()
        squared = ((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))).square()
        betas = 1 - torch.cat([squared[:1], squared[1:] / squared[:-1]])  # and back: what is published is rounded twice
        kept = (1 - betas).cumprod(0)
        kept[-1] = max(float(kept[-1]), self.least)
        return kept


@dataclass(frozen=True)
class Chain:
    """A curve's tables, indexed by step 0 .. total.

    kept: alpha^2, float64. ratios: sigma / alpha, float64. logs: of ratios but the first, as float64.
    """

    kept: Tensor
    ratios: Tensor
    logs: Tensor

    @property
    def total(self) -> int:
        return len(self.kept) - 1

    def locate(self, ratios: Tensor) -> Tensor:
        """The steps (1 .. total) at which sigma / alpha is `ratios`, straight in its log between two: float64."""
        wanted = torch.from_numpy(np.log(ratios.numpy()))
        passed = (wanted[:, None] >= self.logs) * torch.arange(self.total)  # an emptied chain's end need not be its noisiest
        low = passed.amax(1).clamp(max=self.total - 2)
        below, above = self.logs[low], self.logs[low + 1]
        share = ((below - wanted) / (below - above)).clamp(0, 1)
        return (1 - share) * low + share * (low + 1) + 1


@lru_cache(maxsize=16)
def chain(curve: Curve, total: int) -> Chain:
    """The tables of a chain of `total` steps."""
    kept = curve.kept(total)
    ratios = ((1 - kept) / kept).sqrt()
    none = torch.zeros(1, dtype=torch.float64)
    with np.errstate(divide="ignore"):
        logs = torch.from_numpy(np.log(ratios.numpy())).double()  # in the table's own precision: cuts depend on its last bit
    return Chain(torch.cat([1 - none, kept.double()]), torch.cat([none, ratios.double()]), logs)


def straight(step: Tensor, table: Tensor) -> Tensor:
    """A table read at steps that may lie between two, in a straight line."""
    low = step.floor().long().clamp(0, len(table) - 2)
    return torch.lerp(table[low], table[low + 1], step - low)


def strides(first: Tensor, last: Tensor, steps: int, rho: float) -> Tensor:
    """Even steps of x^(1 / rho) from first to last, of log x where rho is infinite, as x: float64 [steps]."""
    share = torch.from_numpy(np.linspace(0, 1, steps))
    low, high = (end.log() if math.isinf(rho) else end ** (1 / rho) for end in (last, first))
    between = high + share * (low - high)
    return torch.from_numpy(np.exp(between.numpy())) if math.isinf(rho) else between**rho


@dataclass(frozen=True)
class Even:
    """From the last step to the data in even strides, rounded (Lin 2023, table 2, "trailing")."""

    whole: ClassVar[bool] = True

    def visits(self, steps: int, chain: Chain) -> Tensor:
        return torch.linspace(chain.total, 0, steps + 1, dtype=torch.float64).round()[:-1]

    def ratio(self, step: Tensor, chain: Chain) -> Tensor:
        return straight(step, chain.ratios)


@dataclass(frozen=True)
class Trailing(Even):
    """The same, added up stride by stride: another neighbour now and then, where a stride ends on a half."""

    def visits(self, steps: int, chain: Chain) -> Tensor:
        return torch.from_numpy(np.arange(chain.total, 0, -chain.total / steps).round()[:steps])


@dataclass(frozen=True)
class Leading(Even):
    """Whole strides up from the data's end, so that the chain's own end is not visited (Lin 2023, table 2).

    Args:
        offset: steps by which all of it is moved up.
        spare: strides are as short as if there were this many steps more, and the lowest ones are left out.
    """

    offset: int = 0
    spare: int = 0

    def visits(self, steps: int, chain: Chain) -> Tensor:
        stride = chain.total // (steps + self.spare)
        lowest = self.spare * stride + self.offset + 1
        found = lowest + stride * torch.arange(steps - 1, -1, -1, dtype=torch.float64)
        if stride < 1 or found[0] > chain.total:
            raise ValueError(f"steps is {steps}; leading strides by {self.offset} fit {chain.total} steps no more, take fewer")
        return found


@dataclass(frozen=True)
class Ends(Even):
    """From the last step of the chain to its first in even strides (Lin 2023, table 2, "linspace").

    Args:
        spare: as in `Leading`.
        fine: strides are not rounded: what is visited lies between two steps.
    """

    spare: int = 0
    fine: bool = False

    @property
    def whole(self) -> bool:  # type: ignore[override]
        return not self.fine

    def visits(self, steps: int, chain: Chain) -> Tensor:
        found = torch.from_numpy(np.linspace(0, chain.total - 1, steps + self.spare)[::-1][:steps].copy())
        return (found.float().double() if self.fine else found.round()) + 1


@dataclass(frozen=True)
class Bent:
    """Even steps of (sigma / alpha)^(1 / rho) (Karras 2022, eq. 5); of its log where rho is infinite.

    Args:
        within: the spacing between whose first and last visit it runs; None = from end to end of the chain.
        logs: the ends are read from the table of logs, which in single precision are a last bit off.
    """

    whole: ClassVar[bool] = False
    rho: float = 7.0
    within: Even | None = None
    logs: bool = False

    def visits(self, steps: int, chain: Chain) -> Tensor:
        seen = self.within.visits(steps, chain) if self.within else torch.tensor([chain.total, 1], dtype=torch.float64)
        ends = chain.logs[[-1, 0]].exp() if self.logs else straight(seen[[0, -1]], chain.ratios)
        return chain.locate(strides(ends[0], ends[1], steps, self.rho))

    def ratio(self, step: Tensor, chain: Chain) -> Tensor:
        """The inverse of `locate`; below the first step in a straight line."""
        return torch.where(step < 1, step * chain.ratios[1], straight(step - 1, chain.logs).exp())
