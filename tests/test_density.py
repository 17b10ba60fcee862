"""Likelihood by the probability-flow ODE, against densities that are known exactly; no training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from plane import CENTRES, Exact

from maquette.contracts import Network
from maquette.objectives.denoising import Measured
from maquette.processes.density import Density
from maquette.processes.flow import Straight
from maquette.processes.gaussian import Balanced, Clean, Cosine, Schedule
from maquette.processes.karras import Growing
from maquette.streams import Streams

WIDTH = 0.25  # of the three Gaussians here
SCHEDULES: dict[str, Schedule] = {"flow": Straight(), "cosine": Cosine(), "edm": Growing()}


def exact(x: torch.Tensor, extra: float = 0.0) -> torch.Tensor:
    """-log p of the mixture, with this much more noise."""
    variance = WIDTH**2 + extra**2
    each = -torch.cdist(x, CENTRES).square() / (2 * variance) - math.log(2 * math.pi * variance)
    return -(each.logsumexp(1) - math.log(3))


def points(n: int) -> torch.Tensor:
    rng = Streams.of(3, n)
    return CENTRES[rng.integers(3)] + 1.5 * WIDTH * rng.normal(2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_ode_gives_a_mixture_its_exact_density(name: str) -> None:
    process = Density(SCHEDULES[name], Clean(), whole=True, steps=40)
    assert process.bound == "exact" and isinstance(process, Measured)
    x = points(60)
    found = process.nats(Exact(process, WIDTH), x, None, Streams.of(0, 60))
    torch.testing.assert_close(found, exact(x), atol=0.02, rtol=0.005)


def test_more_steps_come_closer() -> None:
    x = points(60)
    errors = []
    for steps in (4, 8, 16, 32):
        process = Density(Straight(), Clean(), whole=True, steps=steps)
        errors.append(float((process.nats(Exact(process, WIDTH), x, None, Streams.of(0, 60)) - exact(x)).abs().mean()))
    assert errors[3] < errors[2] < errors[1] < errors[0] and errors[3] < 0.02, errors


def test_hutchinsons_estimate_is_unbiased() -> None:
    """One probe a row; over many probes of one point, the mean is the exact trace's answer."""
    x = points(8)
    process = Density(Straight(), Clean(), steps=16)
    whole = Density(Straight(), Clean(), steps=16, whole=True)
    net = Exact(process, WIDTH)
    truth = whole.nats(net, x, None, Streams.of(0, 8))
    many = process.nats(net, x.repeat(500, 1), None, Streams.of(1, 4000)).reshape(500, 8)
    error = many.std(0) / math.sqrt(500)
    assert ((many.mean(0) - truth).abs() < 4 * error + 1e-3).all() and many.std(0).max() > 1e-3


def test_a_code_of_levels_is_bounded_and_its_probabilities_cannot_exceed_one() -> None:
    """Codes of 5 levels, uniform and independent: the truth is log 5 a place, and the bound may not be below it."""
    count, grid = 5, torch.linspace(-1, 1, 5)

    class Levels(Network):
        def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
            alpha, sigma = process.levels(t, x)
            logits = -(x[..., None] - alpha[..., None] * grid).square() / (2 * sigma[..., None].square().clamp(min=1e-12))
            return (logits.softmax(-1) * grid).sum(-1)

    process = Density(Straight(), Clean(), values=count, whole=True, steps=32)
    x = grid[Streams.of(2, 2000).integers(count, 3)]
    bound = process.nats(Levels(), x, None, Streams.of(0, 2000))
    assert process.bound.startswith("ODE")
    truth = 3 * math.log(5)
    assert truth - 0.03 < float(bound.mean()) < truth + 0.15, float(bound.mean())
    odd = Density(Straight(), Balanced(0.7), values=count, whole=True)  # an untrained reading costs more, never less
    assert float(odd.nats(lambda x, **_: 0 * x, x, None, Streams.of(0, 2000)).mean()) > truth + 0.1  # type: ignore[arg-type]
