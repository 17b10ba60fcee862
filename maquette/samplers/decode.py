"""Sample a latent from the prior and decode it. Knows neither the codec's bottleneck nor how it was trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import Code, Condition, Growing
from maquette.nn.densities import normal_colour
from maquette.nn.paths import arc
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@dataclass(frozen=True)
class Decode(Growing):
    """z ~ p(z | condition), then x from the decoder's likelihood.

    Args:
        temperature: scales the prior's standard deviation; below 1 gives typical samples, fewer kinds.
        pixels: "draw" takes x ~ p(x | z), which is what the likelihood measures; "mean" its expectation, which is smoother.
    """

    temperature: float = 1.0
    pixels: str = "draw"

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 or more, and 1 samples the model itself")
        if self.pixels not in ("draw", "mean"):
            raise ValueError(f"pixels is {self.pixels!r}; it must be 'draw' or 'mean'")

    def draw(
        self,
        system: System,
        n: int,
        *,
        start: Code | None = None,
        cond: Condition | None = None,
        null: Condition | None = None,
        rng: Streams,
    ) -> Iterator[Code]:
        """One draft of n images. `start`: latents [n,D,*S] to decode in place of the prior's."""
        codec = system.steady("codec")
        z = start if start is not None else self.roots(system, n, cond=cond, rng=rng)
        yield codec.draw(z, rng) if self.pixels == "draw" else codec.decode(z)

    def roots(self, system: System, n: int, *, cond: Condition | None = None, rng: Streams) -> Tensor:
        """Latents of the prior, [n,D,*S]."""
        prior = system.steady("prior")(torch.zeros(n, device=system.device), cond=cond)
        return normal_colour(self.temperature * rng.normal(*prior.shape[2:]), prior)

    def between(self, first: Tensor, last: Tensor, share: Tensor) -> Tensor:
        """Latents along a great circle: [n,...] each -> [n,...]."""
        return arc(first, last, share)

    def trace(
        self, system: System, code: Code, *, cond: Condition | None = None, null: Condition | None = None, rng: Streams
    ) -> Tensor:
        """The means of the latents of images [n,C,H,W]."""
        latents: Tensor = system.steady("codec").encode(code)
        return latents
