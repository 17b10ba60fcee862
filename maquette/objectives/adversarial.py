"""Two players: a discriminator tells real from generated, a generator makes it err. Knows neither network.

Roles: `generator` (or any parts of one: `mapping`, `synthesis`) and `discriminator`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.contracts import Batch, Code, Condition, Logs, Objective, Phase, phase
from maquette.nn.augment import Augment
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Contest(Protocol):
    """What the players want of the logits of real and fake rows [B]; losses per row [B].

    `paired`: whether the generator's loss looks at real rows too.
    """

    paired: bool

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor: ...

    def generator(self, real: Tensor, fake: Tensor) -> Tensor: ...


class Logistic:
    """Real is 1, fake is 0; the generator's loss does not saturate (Goodfellow 2014, sec. 3)."""

    paired = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real) + F.softplus(fake)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-fake)


class Relativistic:
    """A real row must look more real than a fake one, row by row; no constant added to all logits matters (Huang 2024, eq. 2)."""

    paired = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake - real)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(real - fake)


class Adversarial(Objective):
    """A GAN with zero-centred gradient penalties.

    Args:
        contest: what the logits should do.
        r1: weight of the squared gradient at real rows (Mescheder 2018, eq. 9: r1 / 2 times it).
        r2: the same at fake rows.
        every: steps between penalties; above 1 they are a phase of their own, weighted up (Karras 2020, lazy regularisation).
        augment: what the discriminator sees its rows through.
    """

    def __init__(self, contest: Contest, r1: float = 1.0, r2: float = 0.0, every: int = 1, augment: Augment | None = None):
        super().__init__()
        for name, weight in (("r1", r1), ("r2", r2)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} is {weight}; a penalty's weight must be 0 or more")
        if every < 1:
            raise ValueError(f"every is {every}; steps between penalties must be 1 or more")
        self.contest, self.r1, self.r2, self.every = contest, r1, r2, every
        self.augment = augment if augment is not None else Augment()

    def phases(self) -> list[Phase]:
        first, *rest = super().phases()
        if self.every == 1:
            return [first, *rest]
        return [first, Phase("penalise", first.roles, self.every, self.penalise), *rest]

    def fake(self, system: System, cond: Condition | None, rng: Streams) -> Code:
        """One generated code per row of `rng`. A system whose generator is several networks overrides this."""
        generator: Any = system.nets["generator"]
        return generator(rng.normal(generator.latent), cond=cond)

    @phase("discriminator")
    def criticise(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The discriminator's move. Logs how often it tells a pair apart."""
        loss, logs, real, fake = self._judge(system, batch, rng, self.every == 1)
        self.augment.watch(real.detach())
        return loss + self.contest.discriminator(real, fake).mean(), {"apart": (real > fake).float().mean(), **logs}

    def penalise(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The penalties alone, weighted by the steps they stand for."""
        loss, logs, _, _ = self._judge(system, batch, rng, True)
        return loss * self.every, logs

    @phase("generator", "mapping", "synthesis", "conditioner")
    def generate(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The generator's move."""
        self.augment.adapt()
        discriminator, cond = system.nets["discriminator"], system.condition(batch)
        fake = discriminator(self.augment(self.fake(system, cond, rng), rng), cond=cond)
        real = fake
        if self.contest.paired:
            with torch.no_grad():
                real = discriminator(self.augment(system.encode(batch), rng), cond=cond)
        return self.contest.generator(real, fake).mean(), {"p": self.augment.p.clone()}

    def _judge(self, system: System, batch: Batch, rng: Streams, penalised: bool) -> tuple[Tensor, Logs, Tensor, Tensor]:
        """The penalties (zero unless `penalised`), their logs, and the logits of real and fake rows [B]."""
        discriminator: Any = system.nets["discriminator"]
        cond, views = self._views(system, batch, rng)
        loss, logs, logits = views[0].new_zeros(()), {}, []
        for name, weight, view in zip(("r1", "r2"), (self.r1, self.r2), views, strict=True):
            if not (penalised and weight):
                logits.append(discriminator(view, cond=cond))
                continue
            steepness, logit = gradient_penalty(discriminator, view, cond)
            loss, logs[name] = loss + weight / 2 * steepness.mean(), steepness.mean()
            logits.append(logit)
        return loss, logs, logits[0], logits[1]

    def _views(self, system: System, batch: Batch, rng: Streams) -> tuple[Condition | None, list[Code]]:
        """What the rows are told, and the real and fake rows as the discriminator sees them."""
        cond = system.condition(batch)
        with torch.no_grad():
            real, fake = system.encode(batch), self.fake(system, cond, rng)
            return cond, [self.augment(real, rng), self.augment(fake, rng)]


def gradient_penalty(discriminator: torch.nn.Module, x: Tensor, cond: Condition | None) -> tuple[Tensor, Tensor]:
    """Squared norm of the logit's gradient at each row [B], and the logits [B]. In float32: a second derivative follows."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.detach().float().requires_grad_(True)
        logit = discriminator(x, cond=cond)
        (slope,) = torch.autograd.grad(logit.sum(), x, create_graph=True)
    return slope.square().flatten(1).sum(1), logit
