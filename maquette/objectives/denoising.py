"""Learn to restore what a process dissolved: diffusion, flow matching and masked modelling are this one objective.

Knows the process's contract only; how data dissolves and what the loss is are the process's own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from maquette.contracts import Batch, Code, Condition, Logs, Network, Objective, Phase, Process, phase
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@runtime_checkable
class Measured(Protocol):
    """What a process offers beyond its contract when its denoiser gives a likelihood, or a bound on it."""

    bound: str  # "ELBO", "any-order ELBO", "exact"; "" = none

    def nats(self, net: Network, x: Code, cond: Condition | None, rng: Streams, given: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of codes x in nats [B], or the bound on it that `bound` names.

        Of codes of symbols the first `given` [B] of a row may be known, and are then not scored.
        """


class Denoising(Objective):
    """Corrupt the code at a random time, denoise it, pay the process's distance.

    Args:
        process: how codes dissolve; share it with the sampler.
        drop: chance that a row is trained under the null condition, for classifier-free guidance.
        roles: that learn; a conditioner that is not to learn from this is left out.

    Raises:
        ValueError: `drop` is not a probability.
    """

    def __init__(self, process: Process, drop: float = 0.1, roles: tuple[str, ...] = ("main", "conditioner")):
        super().__init__()
        if not 0 <= drop <= 1:
            raise ValueError(f"drop is {drop}; it must lie in 0 .. 1, nearest is {min(1.0, max(0.0, drop))}")
        self.process, self.drop, self.roles = process, drop, roles
        self.bound = process.bound if isinstance(process, Measured) else ""

    def phases(self) -> list[Phase]:
        return [replace(found, roles=self.roles) for found in super().phases()]

    @phase("main", "conditioner")
    def restore(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean distance between the code and the network's reading of it at a random time."""
        x = system.encode(batch)
        t = self.process.times(rng.fork(0))
        x_t = self.process.corrupt(x, t, rng.fork(1))
        cond = system.condition(batch, drop=self.drop, rng=rng.fork(2))
        guess = self.process.denoise(system.nets["main"], x_t, t, cond)  # type: ignore[arg-type]
        return self.process.distance(guess, x, x_t, t).mean(), {}

    def score(self, system: System, batch: Batch, rng: Streams) -> Tensor | None:
        """The process's bound in nats [B], given the batch's own condition; None where it has none."""
        if not self.bound or not isinstance(self.process, Measured):
            return None
        known = {"given": batch["given"].to(system.device)} if "given" in batch else {}
        return self.process.nats(system.steady("main"), system.encode(batch), system.condition(batch), rng, **known)
