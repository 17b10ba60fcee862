"""Noise to style to image, the style pulled towards its mean. Knows neither network's inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maquette.contracts import Code, Condition
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@dataclass(frozen=True)
class Style:
    """x = synthesis(mean + truncation * (mapping(z) - mean), noise).

    Args:
        truncation: psi; below 1 trades variety for fidelity, 0 is the mean style's image (Karras 2019, appendix B).
        noise: scales the noise per pixel; 0 leaves it out.
    """

    truncation: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.truncation <= 1:
            raise ValueError(
                f"truncation is {self.truncation}; it must lie in 0..1, and 1 leaves styles as they were in training"
            )
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise is {self.noise}; it must lie in 0..1, and 1 leaves the noise as it was in training")

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
        """One draft of n codes. `start`: chosen styles, one per layer: [n,styles,width]; they are not truncated."""
        mapping, synthesis = system.steady("mapping"), system.steady("synthesis")
        noise = self.noise * rng.normal(synthesis.places)
        if start is None:
            centre = mapping.centre(cond, n)
            start = centre + self.truncation * (mapping(rng.normal(mapping.latent), cond=cond) - centre)
        yield synthesis(start, noise=noise)
