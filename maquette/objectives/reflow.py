"""Straighten a flow: learn the straight line between a noise and where a trained flow carries that noise (Liu 2023).

Knows a process on the straight path and the roles main and teacher; not what the networks are, nor where a teacher comes from.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import Batch, Logs, Objective, phase
from maquette.processes.gaussian import Gaussian
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Reflow(Objective):
    """The velocity of x_t = (1 - t) x + t z is z - x (Liu 2023, eq. 1); what makes paths straight is which z goes with which x.

    With a role "teacher", x is where its ODE carries z: lines that are learnt so do not cross, and the new flow needs few
    steps (sec. 2.2). Without one, x is a row of the data and z is any noise: the first rectified flow.

    Walking the teacher is dear, so pairs are kept and used again: a buffer of them, saved with the run, of which a share
    is replaced at each step. On several ranks each keeps its own, and the first one's is saved.

    Args:
        process: of the teacher and the student; share it with the sampler.
        shape: of one code.
        drop: chance that a row is trained under the null condition.
        fields: integer batch fields that the condition is made of; kept with each pair.
        pool: pairs kept; 0 = no teacher, no pairs.
        fresh: share of a batch that is walked anew at each step.
        walk: Heun steps of the teacher.

    Raises:
        ValueError: a dial out of range.
    """

    codes: Tensor
    keys: Tensor
    filled: Tensor

    def __init__(
        self,
        process: Gaussian,
        shape: tuple[int, ...],
        drop: float = 0.1,
        fields: tuple[str, ...] = (),
        pool: int = 4096,
        fresh: float = 0.125,
        walk: int = 8,
    ):
        super().__init__()
        if not 0 <= drop <= 1:
            raise ValueError(f"drop is {drop}; it must lie in 0 .. 1, nearest is {min(1.0, max(0.0, drop))}")
        if pool < 0:
            raise ValueError(f"pool is {pool}; it must be at least 0")
        if not 0 < fresh <= 1:
            raise ValueError(f"fresh is {fresh}; it must lie in 0 .. 1, above 0")
        if walk < 1:
            raise ValueError(f"walk is {walk}; it must be at least 1")
        self.process, self.drop, self.fields, self.pool, self.fresh, self.walk = process, drop, fields, pool, fresh, walk
        self.register_buffer("codes", torch.zeros(pool, *shape))
        self.register_buffer("keys", torch.zeros(pool, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        for field in fields:
            self.register_buffer(f"about_{field}", torch.zeros(pool, dtype=torch.int64))

    @phase("main", "conditioner")
    def straighten(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Squared error of the velocity, at a uniform time of each pair's line."""
        if "teacher" in system.nets:
            x, z, batch = self.pairs(system, batch, rng)
        else:
            x = system.encode(batch)
            z = rng.fork(1).normal(*x.shape[1:])
        t = rng.fork(0).uniform()
        alpha, sigma = self.process.levels(t, x)
        x_t = alpha * x + sigma * z
        cond = system.condition(batch, drop=self.drop, rng=rng.fork(2))
        guess = self.process.denoise(system.nets["main"], x_t, t, cond)  # type: ignore[arg-type]
        return self.process.distance(guess, x, x_t, t).mean(), {}

    @torch.no_grad()
    def pairs(self, system: System, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor, Batch]:
        """(x, z, fields) of as many pairs as the batch has rows, drawn from the buffer after some of it was renewed."""
        rows = len(rng)
        count = rows if int(self.filled) < rows else max(1, round(self.fresh * rows))
        count = min(count, self.pool)
        self._renew(system, {field: batch[field][:count] for field in self.fields}, rng.fork(3)[:count])
        place = (rng.fork(4).uniform() * self.filled.clamp(max=self.pool)).long().clamp(max=self.pool - 1)
        z = Streams(self.keys[place]).normal(*self.codes.shape[1:])
        return self.codes[place], z, {field: getattr(self, f"about_{field}")[place] for field in self.fields}

    def _renew(self, system: System, about: Batch, rng: Streams) -> None:
        """Walk the teacher from one fresh noise per stream, over the oldest pairs."""
        places = (self.filled + torch.arange(len(rng), device=rng.keys.device)) % self.pool
        cond = system.condition(about) if about else None
        x_t = Streams(rng.keys).normal(*self.codes.shape[1:])
        times = self.process.grid(self.walk).to(x_t.device)
        for t, s in pairwise(times[:, None].expand(-1, len(rng))):
            x_t = self.process.heun(system.nets["teacher"], x_t, t, s, cond)  # type: ignore[arg-type]
        self.codes[places], self.keys[places] = x_t, rng.keys
        for field, value in about.items():
            getattr(self, f"about_{field}")[places] = value.to(places.device)
        self.filled += len(rng)
