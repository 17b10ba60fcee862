"""Solvers beside diffusers' schedulers: same noise, same network outputs, same sample."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maquette.contracts import Network
from maquette.processes.flow import flow
from maquette.processes.gaussian import Betas, Clean, Gaussian, Noise, Reading, Velocity
from maquette.processes.karras import Growing
from maquette.samplers.solvers import DDIM, DPM, Ancestral, Euler, Heun, Solver
from maquette.streams import Streams

schedulers = pytest.importorskip("diffusers.schedulers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # theirs hands numpy a tensor
SHAPE, ROWS, STEPS = (2, 4), 3, 10
CHAIN: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
READINGS: dict[str, Reading] = {"epsilon": Noise(), "v_prediction": Velocity(), "sample": Clean()}


class Odd(Network):
    """Any function of x and t will do, as long as both sides call the same one."""

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        return 0.6 * x + 0.3 * (3 * x + 5 * t.reshape(-1, *[1] * (x.dim() - 1))).sin()


def ours(sampler: Solver, seed: int = 0) -> torch.Tensor:
    *_, sample = sampler.draw(SimpleNamespace(steady=lambda role: Odd()), ROWS, rng=Streams.of(seed, ROWS))  # type: ignore[arg-type]
    return sample


def times(index: Any) -> torch.Tensor:
    """Their step index 0 .. 999 as our time."""
    return torch.full((ROWS,), (float(index) + 1) / 1000)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("reading", READINGS)
def test_ddpm(reading: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Gaussian(Betas(), READINGS[reading])
    rng = Streams.of(0, ROWS)

    def noise(*_: Any, **__: Any) -> torch.Tensor:  # none at the end, as in alg. 2
        return rng.normal(*SHAPE) * (rng.drawn <= STEPS)

    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", noise)
    variance = "fixed_large" if large else "fixed_small"
    theirs = schedulers.DDPMScheduler(**CHAIN, prediction_type=reading, clip_sample=False, variance_type=variance)
    theirs.set_timesteps(STEPS)
    x = process.prior(SHAPE, rng)
    for index in theirs.timesteps:
        x = theirs.step(Odd()(x, t=times(index)), index, x).prev_sample
    torch.testing.assert_close(ours(Ancestral(process, SHAPE, STEPS, large=large)), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("reading", READINGS)
def test_ddim(reading: str, eta: float) -> None:
    process = Gaussian(Betas(), READINGS[reading])
    theirs = schedulers.DDIMScheduler(**CHAIN, prediction_type=reading, clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(STEPS)
    rng = Streams.of(0, ROWS)
    x = process.prior(SHAPE, rng)
    for index in theirs.timesteps:
        noise = rng.normal(*SHAPE) if eta else None
        x = theirs.step(Odd()(x, t=times(index)), index, x, eta=eta, variance_noise=noise).prev_sample
    torch.testing.assert_close(ours(DDIM(process, SHAPE, STEPS, eta=eta)), x, atol=1e-5, rtol=1e-5)


def test_ddim_keeps_its_estimates_within_the_clip() -> None:
    process = Gaussian(Betas(), Noise())
    theirs = schedulers.DDIMScheduler(**CHAIN, clip_sample=True, set_alpha_to_one=True)
    theirs.set_timesteps(STEPS)
    x = process.prior(SHAPE, Streams.of(0, ROWS))
    for index in theirs.timesteps:
        x = theirs.step(Odd()(x, t=times(index)), index, x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(ours(DDIM(process, SHAPE, STEPS, clip=1.0)), x, atol=1e-5, rtol=1e-5)


def test_euler_of_the_chain() -> None:
    """Theirs walks x_t / alpha(t); in that frame their Euler step is ours."""
    process = Gaussian(Betas(), Noise())
    theirs = schedulers.EulerDiscreteScheduler(**CHAIN)
    theirs.set_timesteps(STEPS)
    alpha, _ = process.schedule.levels(torch.ones(()))
    x = process.prior(SHAPE, Streams.of(0, ROWS)) / alpha
    for index in theirs.timesteps:
        x = theirs.step(Odd()(theirs.scale_model_input(x, index), t=times(index)), index, x).prev_sample
    torch.testing.assert_close(ours(Euler(process, SHAPE, STEPS)), x, atol=1e-4, rtol=1e-4)


def test_euler_of_flow() -> None:
    process = flow()
    theirs = schedulers.FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)])
    x = process.prior(SHAPE, Streams.of(0, ROWS))
    for index, sigma in zip(theirs.timesteps, theirs.sigmas, strict=False):
        x = theirs.step(Odd()(x, t=sigma.expand(ROWS)), index, x).prev_sample
    torch.testing.assert_close(ours(Euler(process, SHAPE, STEPS)), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [4, 10, 25])
@pytest.mark.parametrize("reading", READINGS)
def test_dpm_of_the_chain(reading: str, steps: int) -> None:
    """Theirs begins with x at alpha(1), as ours; 2M with the midpoint rule, the last step of first order."""
    process = Gaussian(Betas(), READINGS[reading])
    theirs = schedulers.DPMSolverMultistepScheduler(
        **CHAIN, prediction_type=reading, solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
    )
    theirs.set_timesteps(steps)
    x = process.prior(SHAPE, Streams.of(0, ROWS))
    for index in theirs.timesteps:
        x = theirs.step(Odd()(x, t=times(index)), index, x).prev_sample
    torch.testing.assert_close(ours(DPM(process, SHAPE, steps)), x, atol=2e-4, rtol=2e-4)


def test_dpm_of_flow() -> None:
    process = flow()
    theirs = schedulers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, final_sigmas_type="zero"
    )
    theirs.set_timesteps(STEPS)
    theirs.sigmas = torch.tensor([1 - i / STEPS for i in range(STEPS + 1)])
    x = process.prior(SHAPE, Streams.of(0, ROWS))
    for index, sigma in zip(theirs.timesteps, theirs.sigmas, strict=False):
        x = theirs.step(Odd()(x, t=sigma.expand(ROWS)), index, x).prev_sample
    torch.testing.assert_close(ours(DPM(process, SHAPE, STEPS)), x, atol=1e-4, rtol=1e-4)


def test_heun_of_karras_grid() -> None:
    """EDM's deterministic sampler beside their Heun scheduler, on the same sigmas, told the same x."""
    process = Gaussian(Growing(), Clean())
    theirs = schedulers.HeunDiscreteScheduler(prediction_type="sample", use_karras_sigmas=True)
    theirs.set_timesteps(STEPS)
    _, grid = process.schedule.levels(process.grid(STEPS))
    theirs.sigmas = torch.cat([grid[:1], grid[1:-1].repeat_interleave(2), grid[-1:]])
    x = process.prior(SHAPE, Streams.of(0, ROWS))
    for i, index in enumerate(theirs.timesteps):
        at = process.when(theirs.sigmas[i].expand(ROWS))
        x = theirs.step(Odd()(x, t=at), index, x).prev_sample
    torch.testing.assert_close(ours(Heun(process, SHAPE, STEPS)), x, atol=1e-3, rtol=1e-3)
