"""Noise to style to image, the style pulled towards its mean. Knows neither network's inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import Code, Condition, Growing
from maquette.nn.paths import lerp, line
from maquette.samplers.style_space import directions, mixed, project, styles
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

REACH = 3.0  # standard deviations of the styles, each way along a direction
SHOWN = 8  # pictures in a line of an exhibit


@dataclass(frozen=True)
class Style(Growing):
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
        synthesis, begun = system.steady("synthesis"), rng[:]
        noise = self.noise * rng.normal(synthesis.places)
        yield synthesis(start if start is not None else self.roots(system, n, cond=cond, rng=begun), noise=noise)

    def roots(self, system: System, n: int, *, cond: Condition | None = None, rng: Streams) -> Tensor:
        """Styles of the mapping network, pulled towards their mean, [n,styles,width]."""
        mapping, behind = system.steady("mapping"), rng.later(1)  # the first draw is the noise per pixel
        centre = mapping.centre(cond, n)
        return centre + self.truncation * (mapping(behind.normal(mapping.latent), cond=cond) - centre)

    def between(self, first: Tensor, last: Tensor, share: Tensor) -> Tensor:
        """Styles along a straight line: [n,...] each -> [n,...]."""
        return line(first, last, share)

    def trace(
        self, system: System, code: Code, *, cond: Condition | None = None, null: Condition | None = None, rng: Streams
    ) -> Tensor:
        """The styles of images, found by descent: [n,styles,width]."""
        return project(system, code)[0]

    def adopt(self, system: System, code: Code) -> Code:
        """The styles of pictures, found by descent: [B,styles,width] (`style_space.project`)."""
        return project(system, code)[0]

    @torch.no_grad()
    def exhibit(self, system: System, code: Code) -> dict[str, Tensor]:
        """Coarse styles of some with fine styles of others; directions that nobody labelled; rows beside their projections."""
        synthesis = system.steady("synthesis")
        count = synthesis.styles
        rng = Streams.of(0, 2 * SHOWN, device=code.device)
        rows, columns = styles(system, rng).split(SHOWN)
        rows = rows[: SHOWN - 2]
        drawn = styles(system, Streams.of(1, 256, device=code.device))
        reach = REACH * drawn.std() * directions(synthesis)
        walks = lerp(rows[:1] - reach, rows[:1] + reach, SHOWN + 1)  # [6,9,W]
        kept = project(system, code[: SHOWN + 1])[0]

        def pictures(w: Tensor) -> Tensor:
            lines = w.shape[:2]
            flat = w.flatten(0, 1)
            return system.decode(synthesis(flat if flat.dim() == 3 else flat[:, None].expand(-1, count, -1))).unflatten(0, lines)

        cut = max(1, count // 2)
        return {
            f"Style mixing: layers below {cut} from the first of each line, the rest from the first of each column": _framed(
                pictures(mixed(rows, columns, count, cut)), pictures(rows[:, None])[:, 0], pictures(columns[None])[0]
            ),
            "Directions in which a style changes most (SeFa), a direction a line": pictures(walks),
            "Held-out rows, and below each the nearest picture that one style makes (inversion into W)": torch.stack(
                [system.decode(code[: SHOWN + 1]), pictures(kept[None])[0]]
            ),
        }


def _framed(inner: Tensor, left: Tensor, above: Tensor) -> Tensor:
    """[R,C,*S] with [R,*S] before each line and [C,*S] above each column; the corner is black: [R+1,C+1,*S]."""
    head = torch.cat([torch.zeros_like(above[:1]), above])
    return torch.cat([head[None], torch.cat([left[:, None], inner], 1)])
