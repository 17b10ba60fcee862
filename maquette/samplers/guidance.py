"""Guidance as a network wrapper: a guided network is a network, whether two readings of it are blended or it is told how far.

Knows no sampler and no process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from maquette.contracts import Around, Condition, Network, tell

EVER = (-math.inf, math.inf)
# network, scale, null condition, times between which it guides, share of rescaling -> the network under guidance
Guide = Callable[[Network, float, Condition | None, tuple[float, float], float], Network]


class Guided(Around):
    """untold + scale * (told - untold), from one call of the network on a doubled batch (Ho & Salimans 2022, eq. 6).

    What is blended is whatever the network returns: logits, or any linear reading of a denoiser. State from `begin`
    holds both halves.

    Args:
        net: the conditional network.
        scale: 0 ignores the condition, 1 is the plain network, above 1 the condition is obeyed more and variety falls; or one for
            each row, float[B].
        null: the null condition, a row per sample.
        between: times t, as the network hears them, within which it guides (Kynkaanniemi 2024, eq. 6).
        rescale: share of the way from the guided output to the same with the told one's deviation (Lin 2023, eq. 15, 16).
    """

    def __init__(
        self,
        net: Network,
        scale: float | Tensor,
        null: Condition,
        between: tuple[float, float] = EVER,
        rescale: float = 0.0,
    ):
        super().__init__()
        self.net, self.scale, self.null, self.between, self.rescale = net, scale, null, between, rescale

    def forward(
        self,
        x: Tensor,
        *,
        t: Tensor | None = None,
        cond: Condition | None = None,
        state: Any = None,
        only: Tensor | None = None,
    ) -> Tensor:
        """x [B,...] -> the network's output [B,...], guided."""
        if cond is None:
            raise ValueError("a guided network must be told something: cond is None")
        within = None if t is None else (t >= self.between[0]) & (t <= self.between[1])
        if within is not None and not bool(within.any()):  # half the work
            return self.net(x, t=t, cond=cond, state=state, **_chosen(only))
        twice = None if t is None else torch.cat([t, t]) if t.dim() else t
        chosen = _chosen(None if only is None else torch.cat([only, only]))
        both = self.net(torch.cat([x, x]), t=twice, cond=_stack(cond, self.null), state=state, **chosen)
        told, untold = both.chunk(2)
        scale = self.scale
        if isinstance(scale, Tensor):
            scale = scale.reshape(-1, *[1] * (told.dim() - 1)).to(told)
        blend = torch.lerp(untold, told, scale)
        if self.rescale:
            before, after = (out.flatten(1).std(1).reshape(-1, *[1] * (x.dim() - 1)) for out in (told, blend))
            blend = torch.lerp(blend, blend * (before / after), self.rescale)
        if within is None or bool(within.all()):
            return blend
        return torch.where(within.reshape(-1, *[1] * (blend.dim() - 1)), blend, told)

    def begin(self, batch: int, length: int) -> Any:
        return self.net.begin(2 * batch, length)


def _chosen(only: Tensor | None) -> dict[str, Tensor]:
    return {} if only is None else {"only": only}


def guided(
    net: Network,
    scale: float,
    null: Condition | None,
    between: tuple[float, float] = EVER,
    rescale: float = 0.0,
) -> Network:
    """The network under guidance. Scale 1 is the network itself, at no cost.

    Raises:
        ValueError: the scale is not a finite number, or there is no null condition to guide away from.
    """
    if not math.isfinite(scale):
        raise ValueError(f"guidance is {scale}; it must be a finite number, 1 = off")
    if scale == 1:
        return net
    if null is None:
        raise ValueError(f"guidance is {scale}, but this system has no condition to guide by; only 1 is possible")
    return Guided(net, scale, null, between, rescale)


class Told(Around):
    """A network that guides itself, told how far: one call, and no null condition (Meng 2023, arXiv:2210.03142, sec. 3.1).

    Args:
        net: it is told the scale as the last number of its condition's vector.
        scale: of guidance.
        between: times t, as the network hears them, within which it guides.
        rest: what it is told at other times.
    """

    def __init__(self, net: Network, scale: float, between: tuple[float, float] = EVER, rest: float = 1.0):
        super().__init__()
        self.net, self.scale, self.between, self.rest = net, scale, between, rest

    def forward(
        self,
        x: Tensor,
        *,
        t: Tensor | None = None,
        cond: Condition | None = None,
        state: Any = None,
        only: Tensor | None = None,
    ) -> Tensor:
        """x [B,...] -> the network's output [B,...]."""
        scale = x.new_full((len(x), 1), self.scale, dtype=torch.float32)
        if t is not None:
            within = (t >= self.between[0]) & (t <= self.between[1])
            scale = torch.where(within.reshape(-1, 1), scale, self.rest)
        return self.net(x, t=t, cond=tell(cond, scale), state=state, **_chosen(only))


@dataclass(frozen=True)
class Heeding:
    """How a network is guided that learnt to guide itself by scales of low .. high: it is told."""

    low: float
    high: float

    def __call__(
        self,
        net: Network,
        scale: float,
        null: Condition | None,
        between: tuple[float, float] = EVER,
        rescale: float = 0.0,
    ) -> Network:
        """The network, told the scale.

        Raises:
            ValueError: a scale that it has not learnt, or rescaling, for which there is no plain output.
        """
        if not self.low <= scale <= self.high:
            near = self.high if scale > self.high else self.low
            raise ValueError(
                f"guidance is {scale}; this network learnt to be told {self.low:g} .. {self.high:g}, nearest is {near:g}"
            )
        if rescale:
            raise ValueError(f"rescale is {rescale}; a network that guides itself has no plain output to go back to: only 0")
        return Told(net, scale, between, min(max(1.0, self.low), self.high))


def _stack(first: Condition, second: Condition) -> Condition:
    """Rows of one condition after rows of another: both from one conditioner, so with the same slots."""
    slots: dict[str, Tensor] = {}
    for f in fields(Condition):
        a, b = getattr(first, f.name), getattr(second, f.name)
        if (a is None) != (b is None):
            raise ValueError(f"the condition and the null condition differ in their slot {f.name!r}")
        if a is not None:
            slots[f.name] = torch.cat([a, b])
    return Condition(**slots)
