"""Paths through a latent space: straight, along the sphere, and along one axis. Tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def line(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """The points that lie a share in 0..1 of the straight way from a to b: [B,*S], [B,*S], [B] -> [B,*S]."""
    share = share.reshape(-1, *[1] * (a.dim() - 1))
    return a * (1 - share) + b * share


def arc(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """The points that lie a share in 0..1 of the way from a to b along the great circle: [B,*S], [B,*S], [B] -> [B,*S].

    Lengths in between grow evenly (Shoemake 1985; White 2016); both ends are met to the bit. Where a and b point the same way,
    or opposite ways, or either is 0, no circle is the shortest: the straight way then.
    """
    wide = (-1, *[1] * (a.dim() - 1))
    straight, share = line(a, b, share), share.reshape(wide)
    one, two = a.flatten(1), b.flatten(1)
    lengths = [x.norm(dim=1).reshape(wide) for x in (one, two)]
    cosine = (one * two).sum(1).reshape(wide) / (lengths[0] * lengths[1]).clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    first, last = (x / length.clamp(min=1e-12) for x, length in zip((a, b), lengths, strict=True))
    turned = (((1 - share) * angle).sin() * first + (share * angle).sin() * last) / sine.clamp(min=1e-12)
    length = lengths[0] * (1 - share) + lengths[1] * share
    return torch.where((sine > 1e-4) & (share > 0) & (share < 1), turned * length, straight)


def lerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """The straight path from a to b, both ends in it: [B,*S] each -> [B,steps,*S]."""
    return _path(line, a, b, steps)


def slerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """The path along the great circle, both ends in it: [B,*S] each -> [B,steps,*S]."""
    return _path(arc, a, b, steps)


def traversal(z: Tensor, units: Tensor, values: Tensor) -> Tensor:
    """One code with one unit after another set to each value: z [D], units int64[U], values [V] -> [U,V,D]."""
    found = z.repeat(len(units), len(values), 1)
    for row, unit in enumerate(units.tolist()):
        found[row, :, unit] = values
    return found


def _path(way: Callable[[Tensor, Tensor, Tensor], Tensor], a: Tensor, b: Tensor, steps: int) -> Tensor:
    """The points at even shares of a way: [B,*S] each -> [B,steps,*S]."""
    if steps < 2:
        raise ValueError(f"steps is {steps}; a path has 2 or more, its two ends")
    share = torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype).repeat(len(a))
    return way(a.repeat_interleave(steps, 0), b.repeat_interleave(steps, 0), share).unflatten(0, (len(a), steps))
