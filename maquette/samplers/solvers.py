"""Solvers of a Gaussian process: from noise to a sample, speaking to the process alone.

Between two times an estimate of x and the eps it implies are held fixed, or averaged over both ends. In that frame
Euler's step is DDIM's, for every schedule (Song 2021, eq. 13). Drafts are estimates of x; the last is the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from maquette.contracts import Code, Condition, Network
from maquette.processes.gaussian import Gaussian
from maquette.samplers.guidance import guided
from maquette.streams import Streams
from maquette.system import System


@dataclass(frozen=True)
class Look:
    """What a solver sees at a time: x and the noise, as the network reads them in x_t."""

    process: Gaussian
    net: Network
    cond: Condition | None
    clip: float

    def at(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of x and of eps, each [B,...], at time t [] for all rows."""
        rows = t.to(x_t.device).expand(len(x_t))
        x = self.process.denoise(self.net, x_t, rows, self.cond)
        if self.clip > 0:
            x = x.clamp(-self.clip, self.clip)
        return x, self.process.noise(x, x_t, rows)
