"""StyleGAN2's game: the adversarial one, with styles mixed between layers and the image's slope in style space kept even.

Roles: `mapping`, `synthesis`, `discriminator`. Knows what a mapping and a synthesis network are called with, not what is in them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Code, Condition, Logs, Phase
from maquette.nn.augment import Augment
from maquette.nn.ranks import summed
from maquette.objectives.adversarial import Adversarial, Contest
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Styled(Adversarial):
    """Adversarial training of a mapping and a synthesis network (Karras 2020, sec. 3 and appendix B).

    Args:
        contest: what the logits should do.
        r1: weight of the squared gradient at real rows, taken every `every` steps.
        mixing: chance that a row takes its styles from two noises, the first below a layer, the second from it on.
        path: weight of path length regularisation, taken every `path_every` steps; 0 = none.
        augment: what the discriminator sees its rows through.
    """

    length: Tensor

    def __init__(
        self,
        contest: Contest,
        r1: float = 1.0,
        every: int = 16,
        mixing: float = 0.9,
        path: float = 2.0,
        path_every: int = 4,
        augment: Augment | None = None,
    ):
        super().__init__(contest, r1=r1, every=every, augment=augment)
        if not 0 <= mixing <= 1:
            raise ValueError(f"mixing is {mixing}; it must lie in 0..1, and is the share of rows with two styles")
        if not 0 <= path < math.inf:
            raise ValueError(f"path is {path}; a penalty's weight must be 0 or more")
        self.mixing, self.path, self.path_every = mixing, path, path_every
        self.register_buffer("length", torch.zeros(()))

    def phases(self) -> list[Phase]:
        found = super().phases()
        if not self.path:
            return found
        generate = found[-1]
        return [*found, Phase("straighten", generate.roles, self.path_every, self.straighten)]

    def styles(self, system: System, cond: Condition | None, rng: Streams) -> Tensor:
        """A style per layer for each row, from one noise or two: [B,styles,width]. The mapping network remembers their mean."""
        mapping: Any = system.nets["mapping"]
        synthesis: Any = system.nets["synthesis"]
        count: int = synthesis.styles
        one = mapping(rng.normal(mapping.latent), cond=cond)
        mapping.remember(one, cond)
        if self.mixing == 0:
            return one[:, None].expand(-1, count, -1)
        two = mapping(rng.normal(mapping.latent), cond=cond)
        cut = 1 + rng.integers(count - 1, 1)  # [B,1]: the first layer of the second style
        second = (torch.arange(count, device=cut.device) >= cut) & (rng.uniform(1) < self.mixing)
        return torch.where(second[..., None], two[:, None], one[:, None])

    def fake(self, system: System, cond: Condition | None, rng: Streams) -> Code:
        synthesis: Any = system.nets["synthesis"]
        return synthesis(self.styles(system, cond, rng), noise=rng.normal(synthesis.places))

    def straighten(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Path length regularisation (eq. 4) on half of the rows, weighted by the steps it stands for (appendix B)."""
        half = slice(0, max(1, len(rng) // 2))
        cond, rng = system.condition(batch), rng[half]
        cond = None if cond is None else cond.map(lambda slot: slot[half])
        synthesis: Any = system.nets["synthesis"]
        with torch.autocast(system.device.type, enabled=False):
            styles = self.styles(system, cond, rng)
            image = synthesis(styles, noise=rng.normal(synthesis.places))
            lengths = path_lengths(image, styles, rng)
        total, count = summed(lengths.detach().sum(), lengths.new_tensor(float(len(lengths))))
        mean = total / count
        self.length.lerp_(mean, torch.where(self.length == 0, 1.0, 0.01))  # a mean begun at 0 would flatten the young generator
        uneven = (lengths - self.length).square().mean()
        return uneven * self.path * self.path_every, {"length": mean, "uneven": uneven}


def path_lengths(image: Tensor, styles: Tensor, rng: Streams) -> Tensor:
    """How far an image [B,C,H,W] moves when its styles [B,L,W] do, along random directions of pixels: |J^T y| [B] (eq. 4)."""
    y = rng.normal(*image.shape[1:]) / math.sqrt(image.shape[2] * image.shape[3])
    (slope,) = torch.autograd.grad((image * y).sum(), styles, create_graph=True)
    return (slope.square().sum(2).mean(1) + 1e-12).sqrt()
