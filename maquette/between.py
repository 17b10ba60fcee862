"""What lies between two samples, or two pictures, and what lies around one: points that samples grow from, and ways between.

Knows what samplers say of their points, and how randomness is turned a little; no space of points and no network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Code, Condition, Growing, NeedsStart, Sampler, Tracing
from maquette.nn.paths import slerp
from maquette.streams import Streams, Turned, keys_of, mix
from maquette.system import DRAWS_NOTHING, System


def ends_of(system: System, sampler: Sampler | None) -> list[str]:
    """Between what a system finds ways, and around what others: "samples", "pictures"; [] = neither."""
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

    All are told the same, but for what pictures themselves say, where a system hears that: it lies between them, too. All that is
    drawn besides the points is drawn alike: what the first seed would get.

    Args:
        seeds: the ends are the first sample under each; the first of them, and where it is told the same and its sampler draws
            nothing else the last too, is that sample itself.
        pictures: or what comes nearest to two of them, float[2,C,H,W] in 0..1.
        about: raw batch fields, of one row.

    Raises:
        ValueError: fewer than two samples, or a sampler that has no such points.
    """
    sampler = _growing(system, sampler, "samples" if pictures is None else "pictures", "way between")
    if count < 2:
        raise ValueError(f"n is {count}; it must be at least 2: the two ends")
    rng = keys_of(seeds if pictures is None else seeds[:1] * 2, system.device)
    shown = _shown(system, pictures, about)
    told = _told(system, rng, {**{k: v[:1] for k, v in shown.items()}, **(about or {})})
    said = {**_rows(told, count), **{k: _way(v, count) for k, v in shown.items()}}
    heard, rng = rng.fork(2), rng.fork(1)
    cond, null = system.conditions({**_rows(told, 2), **shown}, heard)
    if pictures is None:
        roots = sampler.roots(system, 2, cond=cond, rng=rng)
    else:
        assert isinstance(sampler, Tracing)
        roots = sampler.trace(system, system.encode({"image": pictures}), cond=cond, null=null, rng=rng)
    first, last = (end.expand(count, *end.shape[1:]) for end in roots.split(1))
    path = sampler.between(first, last, torch.linspace(0, 1, count).to(roots))
    cond, null = system.conditions(said, _alike(heard, count))
    return _made(system, said, sampler.grow(system, path, cond=cond, null=null, rng=_alike(rng, count)))


@torch.no_grad()
def vary(
    system: System,
    count: int,
    *,
    seed: int = 0,
    pick: int = 0,
    picture: Tensor | None = None,
    strength: float = 0.3,
    about: Batch | None = None,
    sampler: Sampler | None = None,
) -> Batch:
    """A sample and `count` variations of it, `count` + 1 rows as `System.sample` has them, all told the same.

    Of a sample, every normal draw it was made of is turned towards a fresh one (`streams.Turned`), so that each variation is
    itself a fair sample: for noise, sqrt(1 - strength^2) of its own and strength of the fresh. A picture's point lies a share
    of its space's way towards a fresh one, and what else is drawn is drawn alike. What an earlier system drew to tell stays.

    Args:
        seed, pick: sample number `pick` under a seed, counted from 0, however many were drawn with it. Told otherwise than it
            was, the first row is what it would have been.
        picture: or the one that comes nearest to this, float[1,C,H,W] in 0..1.
        strength: how far each lies from the first: 0 is the same, 1 another.
        about: raw batch fields, of one row.

    Raises:
        ValueError: no variation, a strength or a number of a sample that cannot be, or a sampler that has no such points.
    """
    sampler = _growing(system, sampler, "samples" if picture is None else "pictures", "variation of")
    if count < 1:
        raise ValueError(f"n is {count}; it must be at least 1: a variation")
    if not 0 <= strength <= 1:
        near = min(1, max(0, strength))
        raise ValueError(f"strength is {strength}; it must lie in 0 .. 1, from the same to another; nearest is {near:g}")
    if pick < 0:
        raise ValueError(f"pick is {pick}; samples are counted from 0")
    own = Streams.of(seed, 1, pick, system.device)
    told = _told(system, own, {**_shown(system, picture, about), **(about or {})})
    own = _alike(own, count + 1)
    fresh = Streams.of(mix(seed, pick), count + 1, device=system.device)
    share = torch.full((count + 1,), float(strength), device=system.device)
    share[0] = 0
    turned = Turned(own.keys, fresh.keys, share)
    said = _rows(told, count + 1)
    if picture is None:
        cond, null = system.conditions(said, turned.fork(2))
        return _made(system, said, sampler.draw(system, count + 1, cond=cond, null=null, rng=turned.fork(1)))
    assert isinstance(sampler, Tracing)
    cond, null = system.conditions(said, own.fork(2))
    code = system.encode({"image": picture})
    root = sampler.trace(system, code, cond=_first(cond), null=_first(null), rng=own[:1].fork(1))
    others = sampler.roots(system, count + 1, cond=cond, rng=fresh)
    points = sampler.between(root.expand(count + 1, *root.shape[1:]), others, share.to(root))
    return _made(system, said, sampler.grow(system, points, cond=cond, null=null, rng=own.fork(1)))


def _growing(system: System, sampler: Sampler | None, ends: str, what: str) -> Growing:
    """The sampler, if it can; the system is brought to evaluation."""
    sampler = sampler or system.sampler
    if sampler is None:
        raise NeedsStart(DRAWS_NOTHING)
    allowed = ends_of(system, sampler)
    if ends not in allowed:
        found = f"{allowed[0]} alone" if allowed else "nothing"
        raise ValueError(f"{type(sampler).__name__} finds no {what} {ends}; this run can interpolate and vary {found}")
    assert isinstance(sampler, Growing)
    system.eval()
    return sampler


def _told(system: System, rng: Streams, about: Batch | None) -> Batch:
    """What is told, in one row: what is said, and of the rest what the first stream would be told."""
    return {} if system.conditioner is None else {**system.conditioner.guess(rng[:1].fork(0), about), **(about or {})}


def _shown(system: System, pictures: Tensor | None, about: Batch | None) -> Batch:
    """What pictures themselves say, where a system hears that and nobody says otherwise."""
    if pictures is None or system.conditioner is None:
        return {}
    return {k: v for k, v in system.conditioner.seen(pictures).items() if k not in (about or {})}


def _way(ends: Any, count: int) -> Any:
    """`count` rows from the first of two to the other: of numbers [2,P] on a great circle, of words all the first."""
    return slerp(ends[:1], ends[1:], count)[0] if isinstance(ends, Tensor) else list(ends[:1]) * count


def _alike(rng: Streams, count: int) -> Streams:
    """The first stream, so many times."""
    return rng[torch.zeros(count, dtype=torch.int64, device=rng.keys.device)]


def _rows(told: Batch, count: int) -> Batch:
    """`count` rows that are all the first one."""
    return {k: v[:1].expand(count, *v.shape[1:]) if isinstance(v, Tensor) else list(v[:1]) * count for k, v in told.items()}


def _first(cond: Condition | None) -> Condition | None:
    """What the first row is told."""
    return None if cond is None else cond.map(lambda slot: slot[:1])


def _made(system: System, said: Batch, drafts: Iterator[Code]) -> Batch:
    """The last draft as a batch."""
    code = deque(drafts, maxlen=1).pop()
    return {**said, "code": code, system.codec.field: system.decode(code)}
