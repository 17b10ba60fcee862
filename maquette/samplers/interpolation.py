"""What lies between two codes: both brought to noise, a great circle between the noises, and back (Song 2021, sec. 5.3).

Knows an invertible solver; neither its process nor its network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from maquette.contracts import Code, Condition
from maquette.nn.paths import slerp
from maquette.samplers.solvers import DDIM
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@torch.no_grad()
def between(system: System, solver: DDIM, first: Code, last: Code, count: int, cond: Condition | None = None) -> Code:
    """`count` codes [count,...] from first to last (each [...]), both included.

    Args:
        solver: its eta must be 0, its rounds say how exactly the ends come back.
        cond: of one row, the same for all; None = nothing is told.

    Raises:
        ValueError: fewer than two codes, or a solver that adds noise.
    """
    if count < 2:
        raise ValueError(f"count is {count}; it must be at least 2: the two ends")
    if solver.eta:
        raise ValueError(f"eta is {solver.eta}; only eta 0 can be inverted")
    net = system.steady("main")
    ends = solver.invert(net, torch.stack([first, last]), _rows(cond, 2))
    noise = slerp(ends[:1], ends[1:], count)[0]
    look = solver.looking(net, _rows(cond, count))
    *_, found = solver.walk(look, noise, solver.process.grid(solver.steps).to(noise.device), Streams.of(0, count))
    return found


def _rows(cond: Condition | None, count: int) -> Condition | None:
    """A condition of one row as one of `count` equal rows."""
    return None if cond is None else cond.map(lambda slot: slot.expand(count, *slot.shape[1:]))
