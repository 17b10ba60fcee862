"""Paths through a latent space: straight, along the sphere, and along one axis. Tensors in, tensors out."""

from __future__ import annotations

import torch
from torch import Tensor


def lerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """The straight path from a to b, both ends in it: [B,*S] each -> [B,steps,*S]."""
    share = _shares(steps, a)
    return a[:, None] * (1 - share) + b[:, None] * share


def slerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """The path along the great circle, lengths in between growing evenly (Shoemake 1985; White 2016): [B,*S] -> [B,steps,*S].

    Where a and b point the same way, or opposite ways, or either is 0, no circle is the shortest: the straight path then.
    """
    share = _shares(steps, a)
    wide = (len(a), 1, *[1] * (a.dim() - 1))
    one, two = a.flatten(1), b.flatten(1)
    lengths = one.norm(dim=1), two.norm(dim=1)
    cosine = (one * two).sum(1) / (lengths[0] * lengths[1]).clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).acos().reshape(wide)
    sine = angle.sin()
    toward = [
        (x / length.clamp(min=1e-12).reshape(-1, *[1] * (x.dim() - 1)))[:, None]
        for x, length in zip((a, b), lengths, strict=True)
    ]
    turned = (((1 - share) * angle).sin() * toward[0] + (share * angle).sin() * toward[1]) / sine.clamp(min=1e-12)
    length = lengths[0].reshape(wide) * (1 - share) + lengths[1].reshape(wide) * share
    return torch.where(sine > 1e-4, turned * length, lerp(a, b, steps))


def traversal(z: Tensor, units: Tensor, values: Tensor) -> Tensor:
    """One code with one unit after another set to each value: z [D], units int64[U], values [V] -> [U,V,D]."""
    found = z.repeat(len(units), len(values), 1)
    for row, unit in enumerate(units.tolist()):
        found[row, :, unit] = values
    return found


def _shares(steps: int, like: Tensor) -> Tensor:
    if steps < 2:
        raise ValueError(f"steps is {steps}; a path has 2 or more, its two ends")
    return torch.linspace(0, 1, steps, device=like.device, dtype=like.dtype).reshape(1, -1, *[1] * (like.dim() - 1))
