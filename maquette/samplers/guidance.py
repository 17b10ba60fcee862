"""Classifier-free guidance as a network wrapper: a guided network is a network. Knows no sampler and no process."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from maquette.contracts import Condition, Network


class Guided(Network):
    """untold + scale * (told - untold), from one call of the network on a doubled batch (Ho & Salimans 2022, eq. 6).

    What is blended is whatever the network returns: logits, or any linear reading of a denoiser. State from `begin`
    holds both halves.

    Args:
        net: the conditional network.
        scale: 0 ignores the condition, 1 is the plain network, above 1 the condition is obeyed more and variety falls.
        null: the null condition, a row per sample.
        between: times t, as the network hears them, within which it guides (Kynkaanniemi 2024, eq. 6).
        rescale: share of the way from the guided output to the same with the told one's deviation (Lin 2023, eq. 15, 16).
    """

    def __init__(
        self,
        net: Network,
        scale: float,
        null: Condition,
        between: tuple[float, float] = (-math.inf, math.inf),
        rescale: float = 0.0,
    ):
        super().__init__()
        self.net, self.scale, self.null, self.between, self.rescale = net, scale, null, between, rescale

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        """x [B,...] -> the network's output [B,...], guided."""
        if cond is None:
            raise ValueError("a guided network must be told something: cond is None")
        within = None if t is None else (t >= self.between[0]) & (t <= self.between[1])
        if within is not None and not bool(within.any()):  # half the work
            return self.net(x, t=t, cond=cond, state=state)
        twice = None if t is None else torch.cat([t, t]) if t.dim() else t
        both = self.net(torch.cat([x, x]), t=twice, cond=_stack(cond, self.null), state=state)
        told, untold = both.chunk(2)
        blend = torch.lerp(untold, told, self.scale)
        if self.rescale:
            before, after = (out.flatten(1).std(1).reshape(-1, *[1] * (x.dim() - 1)) for out in (told, blend))
            blend = torch.lerp(blend, blend * (before / after), self.rescale)
        if within is None or bool(within.all()):
            return blend
        return torch.where(within.reshape(-1, *[1] * (blend.dim() - 1)), blend, told)

    def begin(self, batch: int, length: int) -> Any:
        return self.net.begin(2 * batch, length)


def guided(
    net: Network,
    scale: float,
    null: Condition | None,
    between: tuple[float, float] = (-math.inf, math.inf),
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
