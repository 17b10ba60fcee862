"""The critic's game: the gap between its means on real and generated rows is a distance, while its slope stays near 1.

Roles: `generator` and `discriminator`, the critic. Knows neither network.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from maquette.contracts import Batch, Logs, Phase
from maquette.nn.augment import Augment
from maquette.objectives.adversarial import Adversarial, gradient_penalty
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Gap:
    """The critic wants real rows high and fake ones low, without bound (Arjovsky 2017, eq. 2)."""

    paired = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake - real

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -fake


class Wasserstein(Adversarial):
    """WGAN-GP: the norm of the critic's gradient is held at 1 between real and fake rows (Gulrajani 2017, eq. 3).

    Args:
        penalty: weight of the squared distance of that norm from 1.
        rounds: moves of the critic for each of the generator.
        augment: what the critic sees its rows through.
    """

    def __init__(self, penalty: float = 10.0, rounds: int = 5, augment: Augment | None = None):
        super().__init__(Gap(), r1=0.0, augment=augment)
        if not 0 <= penalty < math.inf:
            raise ValueError(f"penalty is {penalty}; a penalty's weight must be 0 or more")
        if rounds < 1:
            raise ValueError(f"rounds is {rounds}; the critic's moves for each of the generator's must be 1 or more")
        self.penalty, self.rounds = penalty, rounds

    def phases(self) -> list[Phase]:
        criticise, generate = super().phases()
        return [criticise, replace(generate, every=self.rounds)]

    def _judge(self, system: System, batch: Batch, rng: Streams, penalised: bool) -> tuple[Tensor, Logs, Tensor, Tensor]:
        """The penalty, its logs with the distance estimated, and the logits of real and fake rows [B]."""
        critic: Any = system.nets["discriminator"]
        cond, (real, fake) = self._views(system, batch, rng)
        between = real + rng.uniform(1, 1, 1) * (fake - real)
        steepness, _ = gradient_penalty(critic, between, cond)
        norm = (steepness + 1e-12).sqrt()
        loss = self.penalty * (norm - 1).square().mean()
        high, low = critic(real, cond=cond), critic(fake, cond=cond)
        return loss, {"slope": norm.mean(), "distance": (high - low).mean()}, high, low
