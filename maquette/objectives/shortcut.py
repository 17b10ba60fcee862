"""Learn a path's velocity and, from oneself, its long steps: a shortcut model (Frans 2024, arXiv:2410.12557).

Knows a Gaussian process, the lengths of its steps, and the roles main and target; not what the networks are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import Batch, Condition, Logs, Objective, phase, tell
from maquette.processes.gaussian import Gaussian
from maquette.processes.strides import Strides
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Shortcut(Objective):
    """A network that is told how far it is to step: one step of 2d must end where two of d do (eq. 3, 5).

    Most rows learn the velocity, which is a step of the shortest length; the others learn a longer step from the target's
    two half steps in its place. The target follows main and gets no gradient.

    Args:
        process: how codes dissolve; share it with the sampler.
        strides: lengths of steps; share them with the sampler.
        drop: chance that a row is trained under the null condition.
        share: of a batch's rows that learn longer steps.

    Raises:
        ValueError: a dial out of range.
    """

    def __init__(self, process: Gaussian, strides: Strides, drop: float = 0.1, share: float = 0.25):
        super().__init__()
        for name, value in (("drop", drop), ("share", share)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must lie in 0 .. 1, nearest is {min(1.0, max(0.0, value))}")
        self.process, self.strides, self.drop, self.share = process, strides, drop, share

    @phase("main", "conditioner")
    def agree(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The process's distance to the data at random times, and to the end of two half steps from places of the grid."""
        x = system.encode(batch)
        cond = system.condition(batch, drop=self.drop, rng=rng.fork(2))
        count = max(round(self.share * len(x)), int(self.share > 0))
        t, cells = self.process.times(rng.fork(0)), torch.ones(len(x), dtype=torch.int64, device=x.device)
        grid = self.process.grid(self.strides.finest).to(x.device)
        cells[:count], place = self.strides.draw(rng.fork(3)[:count])
        t[:count] = grid[place]
        x_t = self.process.corrupt(x, t, rng.fork(1))
        some = None if cond is None else cond.map(lambda slot: slot[:count])
        aim = torch.cat([self.twice(system, x_t[:count], grid, place, cells[:count], some), x[count:]])
        guess = self.process.denoise(system.nets["main"], x_t, t, tell(cond, self.strides.told(cells)))  # type: ignore[arg-type]
        losses = self.process.distance(guess, aim, x_t, t)
        parts = {"velocity": losses[count:], "steps": losses[:count]}
        return losses.mean(), {name: rows.detach().mean() for name, rows in parts.items() if len(rows)}

    @torch.no_grad()
    def twice(self, system: System, x_t: Tensor, grid: Tensor, place: Tensor, cells: Tensor, cond: Condition | None) -> Tensor:
        """The estimate of x that leads, in one step of `cells` [B], where the target's two half steps from a place [B] end."""
        cond = tell(cond, self.strides.told(cells // 2))
        begin, middle, end = (grid[place + part] for part in (0, cells // 2, cells))
        x_s = x_t
        for t, s in ((begin, middle), (middle, end)):
            guess = self.process.denoise(system.nets["target"], x_s, t, cond)  # type: ignore[arg-type]
            x_s = self.process.step(guess, x_s, t, s)
        return self.process.aim(x_t, begin, x_s, end)
