"""Learn to leap from any time of a path to its data in one call: a consistency model (Song 2023, arXiv:2303.01469).

Knows a Gaussian process and the roles main, target and teacher; not what the networks are, nor where a teacher comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Condition, Logs, Network, Objective, phase, tell
from maquette.processes.gaussian import Gaussian
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

Guide = Callable[[Network, Condition | None], Network]  # a network and the null condition -> the network under guidance


class Consistency(Objective):
    """Two neighbouring times of one path must lead to the same data: f(x_t, t) = f(x_s, s), s before t, f(x, 0) = x.

    f is the process's reading of the network. x_s comes from x_t by a step of the teacher's ODE, Heun's (distillation,
    alg. 2), or, where the system has no role "teacher", from the data with x_t's own noise (training, alg. 3).
    The side at s is the role "target", which follows main and gets no gradient.

    Args:
        process: how codes dissolve; share it with the sampler. With a teacher, the one it was trained with.
        drop: chance that a row is trained under the null condition.
        intervals: into how many the path is cut at first.
        most: and at last.
        period: steps after which there are twice as many (Song & Dhariwal 2023, eq. 6).
        guide: puts the teacher under guidance, so that the student needs none (Luo 2023, arXiv:2310.04378, sec. 4.2);
            None = the teacher as it is.
        scales: of guidance, between which all networks are told one, behind their condition's vector: of a teacher that guides
            itself, and so of its student; None = they are told none.

    Raises:
        ValueError: a dial out of range, or a reading that is not x itself at t = 0.
    """

    def __init__(
        self,
        process: Gaussian,
        drop: float = 0.1,
        intervals: int = 4,
        most: int = 32,
        period: int = 200,
        guide: Guide | None = None,
        scales: tuple[float, float] | None = None,
    ):
        super().__init__()
        if not 0 <= drop <= 1:
            raise ValueError(f"drop is {drop}; it must lie in 0 .. 1, nearest is {min(1.0, max(0.0, drop))}")
        if not 1 <= intervals <= most:
            raise ValueError(f"intervals is {intervals}; it must lie in 1 .. most, which is {most}")
        if period < 1:
            raise ValueError(f"period is {period}; it must be 1 or more")
        with torch.device("cpu"):  # numbers are needed, also where a system is built on meta
            skip, out = process.reading.scales(*process.schedule.levels(torch.zeros(1)))
        if abs(float(skip) - 1) > 1e-6 or abs(float(out)) > 1e-6:
            raise ValueError(
                f"{type(process.reading).__name__} reads {float(skip):g} x + {float(out):g} F at t = 0; a consistency model "
                "must be x itself there: estimate the velocity or a blend"
            )
        self.process, self.drop, self.intervals, self.most, self.period = process, drop, intervals, most, period
        self.guide, self.scales = guide, scales

    def cuts(self, step: int) -> int:
        """Into how many intervals the path is cut at a training step."""
        return min(self.most, self.intervals * 2 ** min(30, step // self.period))

    @phase("main", "conditioner")
    def agree(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The process's distance between main's leap from t and the target's from s, on the same path (eq. 7, 8)."""
        x = system.encode(batch)
        cuts = self.cuts(step)
        grid = self.process.grid(cuts).to(x.device)
        place = rng.fork(0).integers(cuts)
        t, s = grid[place], grid[place + 1]
        cond = system.condition(batch, drop=self.drop, rng=rng.fork(2))
        if self.scales is not None:
            low, high = self.scales
            cond = tell(cond, low + (high - low) * rng.fork(3).uniform(1))
        x_t = self.process.corrupt(x, t, rng.fork(1))
        with torch.no_grad():
            same = self.process.corrupt(x, s, rng.fork(1))  # the noise of x_t
            teacher: Any = system.roles().get("teacher")
            if teacher is not None and self.guide is not None:
                teacher = self.guide(teacher, system.condition(batch, drop=1.0, rng=rng.fork(2)))
            x_s = same if teacher is None else self.process.heun(teacher, x_t, t, s, cond)
            aim = self.process.denoise(system.nets["target"], x_s, s, cond)  # type: ignore[arg-type]
        leap = self.process.denoise(system.nets["main"], x_t, t, cond)  # type: ignore[arg-type]
        return self.process.distance(leap, aim, x_t, t).mean(), {"intervals": torch.tensor(float(cuts))}
