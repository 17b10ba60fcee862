"""Learning to turn images of one kind into another: from pairs, or from two heaps. Knows no network's inside.

Roles: `generator` translates, `discriminator` judges its images; without pairs `back` translates back and `discriminator_back`
judges that. Sources come as the condition's field.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.contracts import Batch, Condition, Logs, Objective, Phase, phase
from maquette.nn.history import History
from maquette.objectives.adversarial import Adversarial, Contest, Logistic, gradient_penalty
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class LeastSquares:
    """Real is 1, fake is 0, squared errors (Mao 2017, eq. 9)."""

    paired = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real - 1).square() + fake.square()) / 2

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return (fake - 1).square()


class Paired(Adversarial):
    """pix2pix: the adversarial game, and a distance to each source's own counterpart (Isola 2017, eq. 4).

    Args:
        near: weight of the L1 distance.
        contest: what the logits of patches should do.
    """

    def __init__(self, near: float = 100.0, contest: Contest | None = None):
        super().__init__(contest if contest is not None else Logistic(), r1=0.0)
        if not 0 <= near < math.inf:
            raise ValueError(f"near is {near}; a distance's weight must be 0 or more")
        self.near = near

    @phase("generator", "conditioner")
    def generate(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        cond = system.condition(batch)
        fake = self.fake(system, cond, rng)
        logit = system.nets["discriminator"](fake, cond=cond)
        away = (fake - system.encode(batch)).abs().mean()
        fooled = self.contest.generator(logit, logit).mean()
        return fooled + self.near * away, {"fooled": fooled, "away": away}


class Cycle(Objective):
    """CycleGAN: two translators that undo each other, each against a discriminator of patches (Zhu 2017, eq. 3 and sec. 5.2).

    Args:
        shape: (C, H, W) of both kinds of images.
        cycle: weight of the L1 distance to an image translated there and back.
        identity: weight of the L1 distance to an image that is of the wanted kind already.
        history: translated images kept to be shown to the discriminators again.
        r1: weight of the squared gradient at real images (Mescheder 2018); the paper has none, and larger images.
        every: steps between these penalties, which are weighted up (Karras 2020, lazy regularisation).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cycle: float = 10.0,
        identity: float = 5.0,
        history: int = 50,
        r1: float = 0.0,
        every: int = 4,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"every is {every}; steps between penalties must be 1 or more")
        for name, weight in (("cycle", cycle), ("identity", identity), ("r1", r1)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} is {weight}; a weight must be 0 or more")
        self.cycle, self.identity, self.r1, self.every, self.contest = cycle, identity, r1, every, LeastSquares()
        self.history, self.history_back = History(shape, history), History(shape, history)

    def phases(self) -> list[Phase]:
        first, *rest = super().phases()
        return [first, Phase("penalise", first.roles, self.every, self.penalise), *rest] if self.r1 else [first, *rest]

    @phase("discriminator", "discriminator_back")
    def criticise(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Both discriminators' move, each seeing half of its fakes from the past."""
        source, target = _sides(system, batch)
        with torch.no_grad():
            fake = self.history(system.nets["generator"](source), rng)
            fake_back = self.history_back(system.nets["back"](target), rng)
        loss, logs = target.new_zeros(()), {}
        for name, real, made in (("discriminator", target, fake), ("discriminator_back", source, fake_back)):
            judge: Any = system.nets[name]
            high, low = judge(real), judge(made)
            loss = loss + self.contest.discriminator(high, low).mean()
            logs[name.replace("discriminator", "apart")] = (high > low).float().mean()
        return loss, logs

    def penalise(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Both discriminators' penalties, weighted by the steps that they stand for."""
        source, target = _sides(system, batch)
        steepness = target.new_zeros(())
        for name, real in (("discriminator", target), ("discriminator_back", source)):
            steepness = steepness + gradient_penalty(system.nets[name], real, None)[0].mean()
        return self.every * self.r1 / 2 * steepness, {"steepness": steepness}

    @phase("generator", "back")
    def translate(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Both translators' move: fool, return, and leave alone what is right already."""
        source, target = _sides(system, batch)
        there, back = system.nets["generator"], system.nets["back"]
        fake, fake_back = there(source), back(target)
        high, high_back = system.nets["discriminator"](fake), system.nets["discriminator_back"](fake_back)
        fooled = self.contest.generator(high, high).mean() + self.contest.generator(high_back, high_back).mean()
        returned = F.l1_loss(back(fake), source) + F.l1_loss(there(fake_back), target)
        loss, logs = fooled + self.cycle * returned, {"fooled": fooled, "returned": returned}
        if self.identity:
            logs["same"] = F.l1_loss(there(target), target) + F.l1_loss(back(source), source)
            loss = loss + self.identity * logs["same"]
        return loss, logs


def _sides(system: System, batch: Batch) -> tuple[Tensor, Tensor]:
    """The batch's images of the first kind and of the second, which have nothing to do with each other."""
    told: Condition | None = system.condition(batch)
    if told is None or told.field is None:
        raise ValueError("translation needs images of both kinds: a system whose conditioner gives the sources as a field")
    return told.field, system.encode(batch)
