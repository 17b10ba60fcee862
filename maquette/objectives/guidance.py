"""Learn to guide oneself: one call of a network told a scale, in place of two that are blended (Meng 2023, arXiv:2210.03142).

Knows a process and the roles main and teacher; not what the networks are, nor how a network is guided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Condition, Logs, Network, Objective, Process, phase, tell
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

Blend = Callable[[Network, Tensor, Condition], Network]  # a network, a scale for each row, the null condition -> under guidance


class Guidance(Objective):
    """Told a scale as the last number of its condition's vector, main reads what the teacher reads under guidance by it.

    With a role "teacher", which is told no scale, all rows learn from that (sec. 3.1). Without one, main learns from what
    it steadily is, told the scale 1 and guided, and the other rows learn that from the data, as a denoiser does (Tang 2025,
    arXiv:2502.12154, has the network's own guidance as its target).

    Args:
        process: how codes dissolve; share it with the sampler. With a teacher, the one it was trained with.
        blend: puts a network under guidance.
        drop: chance that a row is trained under the null condition, where guidance changes nothing.
        low, high: between which scales are drawn, all alike likely.
        share: without a teacher, of the rows that learn guidance.

    Raises:
        ValueError: a dial out of range.
    """

    def __init__(
        self, process: Process, blend: Blend, drop: float = 0.1, low: float = 1.0, high: float = 4.0, share: float = 0.5
    ):
        super().__init__()
        for name, value in (("drop", drop), ("share", share)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must lie in 0 .. 1, nearest is {min(1.0, max(0.0, value))}")
        if not 0 <= low < high < float("inf"):
            raise ValueError(f"low .. high is {low} .. {high}; it must be a stretch of scales of 0 or more")
        self.process, self.blend, self.drop, self.low, self.high, self.share = process, blend, drop, low, high, share

    def scales(self, rng: Streams) -> Tensor:
        """Scales of training rows, [B,1]."""
        return self.low + (self.high - self.low) * rng.uniform(1)

    @phase("main", "conditioner")
    def heed(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The process's distance between main's reading, told a scale, and the guided one."""
        x = system.encode(batch)
        t, scale = self.process.times(rng.fork(0)), self.scales(rng.fork(3))
        x_t = self.process.corrupt(x, t, rng.fork(1))
        cond = system.condition(batch, drop=self.drop, rng=rng.fork(2))
        teacher: Any = system.roles().get("teacher")
        with torch.no_grad():
            null = system.condition(batch, drop=1.0, rng=rng.fork(2))
            assert null is not None, "there is something to be guided by"
            if teacher is not None:
                aim = self.process.denoise(self.blend(teacher, scale, null), x_t, t, cond)
            else:
                one = torch.ones_like(scale)
                own = self.blend(system.steady("main"), scale, tell(null, one))
                learns = rng.fork(4).uniform(1) < self.share
                guided = self.process.denoise(own, x_t, t, tell(cond, one))
                aim = torch.where(learns.reshape(-1, *[1] * (x.dim() - 1)), guided, x)
                scale = torch.where(learns, scale, one)
        guess = self.process.denoise(system.nets["main"], x_t, t, tell(cond, scale))  # type: ignore[arg-type]
        return self.process.distance(guess, aim, x_t, t).mean(), {}
