"""A linear multi-step solver of a Gaussian process: it looks back at what the network gave. Knows what all solvers know."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from maquette.samplers.solvers import Look, Solver
from maquette.streams import Streams

ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))  # the latest first


@dataclass(frozen=True)
class PLMS(Solver):
    """Adams and Bashforth's rule, up to fourth order, on the network's outputs; DDIM's step with what it gives.

    Liu 2022 (PNDM), eq. 12, 13, begun with one step of the trapezoidal rule, a look more, in place of their Runge-Kutta's.
    """

    steps: int = 50

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        outputs = [self._output(*seen) for seen in ((t, x_t, x), *reversed(look.past))]
        if len(outputs) == 1 and not look.final:
            x_s = self._follow(outputs[0], x_t, t, s)
            there, _ = look.at(x_s, s)
            return self._follow((outputs[0] + self._output(s, x_s, there)) / 2, x_t, t, s)
        blend = sum((weight * output for weight, output in zip(ADAMS[len(outputs) - 1], outputs, strict=True)), 0 * x)
        return self._follow(blend, x_t, t, s)

    def _output(self, t: Tensor, x_t: Tensor, x: Tensor) -> Tensor:
        """What the network gave where x was read from it."""
        skip, out = self.process.reading.scales(*self.process.levels(t, x))
        return (x - skip * x_t) / out

    def _follow(self, output: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s from x_t with an output of the network held fixed."""
        skip, out = self.process.reading.scales(*self.process.levels(t, x_t))
        return self.process.step(skip * x_t + out * output, x_t, t, s)
