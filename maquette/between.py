"""What lies between two samples, or two pictures: the points that they grow from, a path from one to the other, and what grows.

Knows what samplers say of their points; no space of them and no network.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import Batch, Growing, Sampler, Tracing
from maquette.streams import Streams, keys_of

if TYPE_CHECKING:
    from maquette.system import System


def ends_of(system: System, sampler: Sampler | None) -> list[str]:
    """Between what a system finds ways: "samples", "pictures"; [] = neither."""
    if not isinstance(sampler, Growing):
        return []
    told = system.conditioner is not None and "source" in system.conditioner.fields  # a source is more than a point
    pictures = system.codec.field == "image" and isinstance(sampler, Tracing)
    return [] if told else ["samples"] + ["pictures"] * pictures


@torch.no_grad()
def between(
    system: System,
    count: int,
    *,
    seeds: tuple[int, int] = (0, 1),
    pictures: Tensor | None = None,
    about: Batch | None = None,
    sampler: Sampler | None = None,
) -> Batch:
    """`count` samples on the way from one to another, both included, as `System.sample` has them.

    All are told the same, and all that is drawn besides the points is drawn alike: what the first seed would get.

    Args:
        seeds: the ends are the first sample under each; the first of them, and where it is told the same and its sampler draws
            nothing else the last too, is that sample itself.
        pictures: or what comes nearest to two of them, float[2,C,H,W] in 0..1.
        about: raw batch fields, `count` rows that are all alike.

    Raises:
        ValueError: fewer than two samples, or a sampler that has no such points.
    """
    sampler = sampler or system.sampler
    if count < 2:
        raise ValueError(f"n is {count}; it must be at least 2: the two ends")
    allowed, asked = ends_of(system, sampler), "samples" if pictures is None else "pictures"
    if asked not in allowed:
        found = f"between {allowed[0]} alone" if allowed else "nothing"
        raise ValueError(f"{type(sampler).__name__} finds no way between {asked}; this run can interpolate {found}")
    assert isinstance(sampler, Growing)
    system.eval()
    rng = keys_of(seeds if pictures is None else seeds[:1] * 2, system.device)
    told: Batch = {}
    if system.conditioner is not None:
        told = {
            **_alike(system.conditioner.guess(rng.fork(0), {k: v[:2] for k, v in (about or {}).items()}), count),
            **(about or {}),
        }
    heard, rng = rng.fork(2), rng.fork(1)
    cond, null = system.conditions({k: v[:2] for k, v in told.items()}, heard)
    if pictures is None:
        roots = sampler.roots(system, 2, cond=cond, rng=rng)
    else:
        assert isinstance(sampler, Tracing)
        code = system.encode({"image": pictures})
        roots = sampler.trace(system, code, cond=cond, null=null, rng=rng)
    same = torch.zeros(count, dtype=torch.int64, device=rng.keys.device)
    cond, null = system.conditions(told, heard[same])
    shared: Streams = rng[same]
    path = sampler.between(roots[0], roots[1], count)
    drafts = sampler.grow(system, path, cond=cond, null=null, rng=shared)
    made = deque(drafts, maxlen=1).pop()
    return {**told, "code": made, system.codec.field: system.decode(made)}


def _alike(told: Batch, count: int) -> Batch:
    """`count` rows that are all the first one."""
    return {k: v[:1].expand(count, *v.shape[1:]) if isinstance(v, Tensor) else list(v[:1]) * count for k, v in told.items()}
