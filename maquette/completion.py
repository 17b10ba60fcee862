"""Completion: pictures of which a part is hidden, as the starts of samples, and a condition that fits what is seen of them.

Knows codecs, what a sampler says of open parts, and an exact likelihood where there is one; not how samples are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from maquette.contracts import IGNORE, Batch, Code, Codec, Completing, Sampler
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

Share = Callable[[Tensor, Tensor], Tensor]  # from (down, right) in 0..1 to where it is hidden

PARTS: dict[str, Share] = {
    "bottom": lambda down, right: down >= 0.5,
    "top": lambda down, right: down < 0.5,
    "left": lambda down, right: right < 0.5,
    "right": lambda down, right: right >= 0.5,
    "middle": lambda down, right: torch.maximum((down - 0.5).abs(), (right - 0.5).abs()) < 0.25,
    "around": lambda down, right: torch.maximum((down - 0.5).abs(), (right - 0.5).abs()) >= 0.25,
}


def hidden(part: str, height: int, width: int) -> Tensor:
    """bool[height, width]: where a part of a picture is.

    Raises:
        ValueError: no such part.
    """
    if part not in PARTS:
        raise ValueError(f"'{part}' is no part of a picture that can be hidden; allowed are {', '.join(PARTS)}")
    down, right = ((torch.arange(size) + 0.5) / size for size in (height, width))
    return PARTS[part](down[:, None].expand(height, width), right[None].expand(height, width))


def occluded(codec: Codec, images: Tensor, away: Tensor) -> Code:
    """The code of images float[N,C,H,W], IGNORE wherever a symbol would tell of what is `away`, bool[H,W].

    Symbols that stand for patches are those of images with what is away in the mean colour of the rest, IGNORE where some of
    the patch is: each sees far beyond its own, so that hardly one would stay if it had to be the same whatever is there.

    Raises:
        ValueError: the codec's codes are no symbols.
    """
    if codec.grid is not None:
        code, places = codec.encode(blanked(images, away)), adaptive_max_pool2d(away[None, None].float(), codec.grid) > 0
        return code.masked_fill(places.flatten().repeat_interleave(codec.books).to(code.device), IGNORE)
    dark, light = (codec.encode(images.masked_fill(away, value)) for value in (0.0, 1.0))
    if dark.is_floating_point():
        raise ValueError(
            "this run's code is not made of symbols, and its sampler leaves no part of it open: it completes nothing"
        )
    return dark.masked_fill(dark != light, IGNORE)


def blanked(images: Tensor, away: Tensor) -> Tensor:
    """Images [N,C,H,W] with what is `away`, bool[H,W], in the mean colour of the rest: nothing tells of it."""
    return torch.where(away, images[:, :, ~away].mean(2)[..., None, None], images)


def started(system: System, sampler: Sampler, images: Tensor, away: Tensor) -> Code:
    """The start that knows of images float[N,C,H,W] all but what is `away`, bool[H,W].

    Where codes are numbers, what lies away is given the mean colour of the rest, so that no code tells of it.

    Raises:
        ValueError: the sampler completes nothing.
    """
    away = away.to(images.device)
    if not isinstance(sampler, Completing):
        return occluded(system.codec, images, away)
    return sampler.without(system.encode({"image": blanked(images, away)}), away)


@torch.no_grad()
def weighed(system: System, code: Code) -> Tensor:
    """-log p(seen symbols, condition) of each row under each value of its condition, in nats: float64[N,K].

    Exact where what is seen comes before what is not; a hidden symbol amid the seen ones reads as the beginning does.
    """
    assert system.conditioner is not None
    cost = []
    for value, log in system.conditioner.every():
        batch = {"code": code, **{k: v.expand(len(code), *v.shape[1:]) for k, v in value.items()}}
        nats = system.objective.score(system.eval(), batch, Streams.of(0, len(code), device=system.device))
        assert nats is not None, "an objective with a bound gives a score"
        cost.append(nats.double().cpu() - log)
    return torch.stack(cost, 1)


def fitting(system: System, start: Code, rng: Streams) -> Batch:
    """The fields of a condition drawn for each row from p(condition | what is seen); {} where the system cannot say."""
    every = system.conditioner.every() if system.conditioner is not None else []
    if not every or system.objective.bound != "exact" or start.is_floating_point():
        return {}
    chosen = rng.choose(-weighed(system, start).float().to(rng.keys.device))
    return {k: torch.cat([every[i][0][k] for i in chosen.tolist()]) for k in every[0][0]}
