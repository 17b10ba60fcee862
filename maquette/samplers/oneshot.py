"""Noise, or an image of another kind, to sample in one call of a network. Knows neither its architecture nor its training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from maquette.contracts import Code, Condition, Growing
from maquette.nn.paths import arc
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@dataclass(frozen=True)
class OneShot(Growing):
    """x = G(z).

    Args:
        truncation: scales the noise; below 1 trades kinds for fidelity (Brock 2019, sec. 3.1, with scaling for resampling).
    """

    truncation: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.truncation <= 1:
            raise ValueError(
                f"truncation is {self.truncation}; it must lie in 0..1, and 1 leaves the noise as it was in training"
            )

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
        """One draft of n codes. `start`: what the generator gets in place of noise: chosen latents, images to translate."""
        z = start if start is not None else self.roots(system, n, cond=cond, rng=rng)
        yield system.steady("generator")(z, cond=cond)

    def roots(self, system: System, n: int, *, cond: Condition | None = None, rng: Streams) -> Tensor:
        """Noise, [n,D]."""
        return self.truncation * rng.normal(system.steady("generator").latent)

    def between(self, first: Tensor, last: Tensor, share: Tensor) -> Tensor:
        """Noise along a great circle: [n,...] each -> [n,...]."""
        return arc(first, last, share)


@dataclass(frozen=True)
class Translate:
    """x = G(source).

    Args:
        role: the network that translates: "generator", or "back" for images of the second kind.
    """

    role: str = "generator"

    def __post_init__(self) -> None:
        if self.role not in ("generator", "back"):
            raise ValueError(f"role is {self.role!r}; it must be 'generator' (first kind to second) or 'back' (second to first)")

    def adopt(self, system: System, code: Code) -> Code:
        """Images are translated as they are, of whichever kind `role` reads."""
        return code

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
        """One draft of n codes. `start`: the images to translate; without it, those of the condition's field."""
        if start is None:
            if self.role == "back" or cond is None or cond.field is None:
                raise ValueError("nothing to translate: give the images as `start`")
            start = cond.field
        yield system.steady(self.role)(start)
