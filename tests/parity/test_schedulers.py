"""Solvers beside diffusers' schedulers: same noise, same network outputs, same sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maquette.contracts import Network
from maquette.hub.schedulers import read
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


# -- read from a scheduler_config.json: the whole sample, whatever is visited ---------------------------------------------

CURVES: list[dict[str, Any]] = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
]
EMPTIED: list[dict[str, Any]] = [{**CURVES[1], "rescale_betas_zero_snr": True}, {**CURVES[2], "rescale_betas_zero_snr": True}]
SPACINGS: list[dict[str, Any]] = [
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "trailing"},
]
LEADING = SPACINGS[:2]
TYPES = ["epsilon", "v_prediction", "sample"]
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
KARRAS, EXPONENTIAL = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
MINIMUM = {"final_sigmas_type": "sigma_min"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
NOISES = {
    "DDPMScheduler": "ddpm",
    "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete",
    "DPMSolverMultistepScheduler": "dpmsolver_multistep",
    "FlowMatchEulerDiscreteScheduler": "flow_match_euler_discrete",
}


def theirs_and_peak(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], steps: int, eta: float = 0.0, **told: Any
) -> tuple[torch.Tensor, float]:
    """Their sample, by the configuration, from the noises that ours draws; and the largest number on the way to it."""
    name = config["_class_name"]
    theirs = getattr(schedulers, name).from_config(config)
    rng = Streams.of(0, ROWS)
    if name in NOISES:
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{NOISES[name]}.randn_tensor", lambda *_, **__: rng.normal(*SHAPE))
    theirs.set_timesteps(steps, **told) if "sigmas" not in told else theirs.set_timesteps(**told)
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(0)  # as their pipelines do: without it a step that is visited twice is looked for in vain
    straight = "FlowMatch" in name or config.get("use_flow_sigmas")
    x = rng.normal(*SHAPE) * getattr(theirs, "init_noise_sigma", 1.0)
    peak = float(x.abs().max())
    for index in theirs.timesteps:
        seen = theirs.scale_model_input(x, index) if hasattr(theirs, "scale_model_input") else x
        t = float(index) if config.get("timestep_type") == "continuous" else float(index) + (not straight)
        t = t if config.get("timestep_type") == "continuous" else t / 1000
        extra = {"eta": eta, "variance_noise": rng.normal(*SHAPE)} if eta else {}
        x = theirs.step(Odd()(seen, t=torch.full((ROWS,), t)), index, x, **extra).prev_sample
        peak = max(peak, float(x.abs().max()))
    return x, peak


def same(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], steps: int, eta: float = 0.0, **told: Any) -> None:
    """Ours is theirs to 1e-4 of the sample's size, where theirs holds as many digits of x_t / alpha at all."""
    their, peak = theirs_and_peak(monkeypatch, config, steps, eta, **told)
    reading = {"tokens": 1024} if "mu" in told else {}
    solver = read(config, SHAPE, steps, own="sigmas" not in told, **reading)
    found = ours(replace(solver, eta=eta) if eta else solver)  # type: ignore[call-arg]
    last_digits = 4 * 2**-23 * peak if peak > 1000 else 0.0
    far, bound = float((found - their).abs().max()), 1e-4 * max(1.0, float(their.abs().max())) + last_digits
    assert far <= bound, f"{far:.1e} > {bound:.1e}: {steps} steps, eta {eta}, {config}"


@dataclass(frozen=True)
class Share:
    """Of all combinations of the choices, a third of which are tried at a time; by few steps in the fast suite."""

    third: int
    few: bool

    def counts(self) -> Iterator[int]:
        if self.few:
            return cycle([1, 6, 7])  # of which the last two do not divide a chain of 1,000
        return cycle([1, 4, 20, 50, 7, 1, 50, 30, 20, 4, 30][self.third :] + [1, 4, 20][: self.third])


def every(monkeypatch: pytest.MonkeyPatch, name: str, share: Share, *choices: list[Any]) -> None:
    """A third of all combinations of the choices (what a dictionary or a prediction type says); step counts take turns."""
    counts = share.counts()
    for number, choice in enumerate(product(*choices)):
        config = {"_class_name": name}
        for said in choice:
            config |= said if isinstance(said, dict) else {"prediction_type": said}
        if number % 3 == share.third:
            same(monkeypatch, config, next(counts))


NAMES = [" ".join(map(str, curve.values())) for curve in CURVES + EMPTIED]
FEW = [
    pytest.param(curve, Share(place % 3, True), id=f"{NAMES[place]} few steps") for place, curve in enumerate(CURVES + EMPTIED)
]
MANY = [
    pytest.param(curve, Share(third, False), marks=pytest.mark.slow, id=f"{NAMES[place]} {third}")
    for third in range(3)
    for place, curve in enumerate(CURVES + EMPTIED)
]
EACH = FEW + MANY


@pytest.mark.parametrize(("curve", "share"), EACH)
def test_read_ddpm(curve: dict[str, Any], share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    types = TYPES[1:] if curve in EMPTIED else TYPES
    bounds = [{}, {"clip_sample": False}, {"clip_sample_range": 1.3}, THRESHOLD]
    if curve["beta_schedule"] == "squaredcos_cap_v2" and curve in CURVES:
        types = TYPES[1:]  # their eps is divided by an alpha of 5e-5
        same(monkeypatch, {"_class_name": "DDPMScheduler", **curve, "clip_sample": True}, 8 if share.few else 20)
    every(monkeypatch, "DDPMScheduler", share, [curve], SPACINGS, types, bounds)
    if curve in CURVES:
        every(monkeypatch, "DDPMScheduler", share, [curve], [SPACINGS[0], SPACINGS[2]], types, [{"variance_type": "fixed_large"}])


@pytest.mark.parametrize(("curve", "share"), EACH)
def test_read_ddim(curve: dict[str, Any], share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    types = TYPES[1:] if curve in EMPTIED else TYPES
    bounds = [{"clip_sample": False}, {"clip_sample_range": 1.3}, THRESHOLD]
    every(monkeypatch, "DDIMScheduler", share, [curve], SPACINGS, types, bounds, [{}, {"set_alpha_to_one": False}])
    for spacing in SPACINGS:
        for eta, steps in (
            (0.7, 8 if share.few else 20),
            (0.9, 10 if share.few else 30),
        ):  # at 1, theirs: a root of rounded 0
            same(monkeypatch, {"_class_name": "DDIMScheduler", **curve, **spacing, "prediction_type": "sample"}, steps, eta)


@pytest.mark.parametrize("counts", [(1, 2, 3, 4, 9), pytest.param((20, 50), marks=pytest.mark.slow)])
@pytest.mark.parametrize("ends", [True, False])
def test_read_pndm(ends: bool, counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"skip_prk_steps": True, "set_alpha_to_one": ends}
    for steps, curve in product(counts, CURVES[ends::2]):
        for spacing, kind in product(LEADING, TYPES[:2]):
            same(monkeypatch, {"_class_name": "PNDMScheduler", **said, **curve, **spacing, "prediction_type": kind}, steps)


@pytest.mark.parametrize(("curve", "share"), EACH)
def test_read_euler(curve: dict[str, Any], share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [{}, KARRAS, EXPONENTIAL, MINIMUM, KARRAS | MINIMUM]
    every(monkeypatch, "EulerDiscreteScheduler", share, [curve], SPACINGS, TYPES, ways)
    every(monkeypatch, "EulerAncestralDiscreteScheduler", share, [curve], SPACINGS, TYPES[:2], [{}])


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_read_euler_of_continuous_times(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"timestep_type": "continuous", "sigma_min": 0.002, "sigma_max": 700.0, "prediction_type": "v_prediction"}
    for spacing in (SPACINGS[0], SPACINGS[2]):
        same(monkeypatch, {"_class_name": "EulerDiscreteScheduler", **said, **KARRAS, **spacing}, steps)


@pytest.mark.parametrize(("curve", "share"), [each for each in EACH if each.values[0] in CURVES])
def test_read_heun(curve: dict[str, Any], share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the very end of a cosine: their own sample moves by its own size there if a last digit of the noise does."""
    cosine = curve["beta_schedule"] == "squaredcos_cap_v2"
    every(monkeypatch, "HeunDiscreteScheduler", share, [curve], LEADING if cosine else SPACINGS, TYPES, [{}, KARRAS])
    clips = [{"clip_sample": True}, {"clip_sample": True, "clip_sample_range": 1.5}]
    every(monkeypatch, "HeunDiscreteScheduler", share, [curve], LEADING, TYPES, clips)


@pytest.mark.parametrize(("curve", "share"), EACH)
@pytest.mark.parametrize("kind", [{}, SDE], ids=["ode", "sde"])
def test_read_dpm(curve: dict[str, Any], share: Share, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[dict[str, Any]] = [{}, MINIMUM, MINIMUM | {"euler_at_final": True}, MINIMUM | {"lower_order_final": False}]
    types = TYPES if curve == CURVES[1] else TYPES[1:]  # elsewhere their eps is divided by an alpha of 2e-4 and less
    name = "DPMSolverMultistepScheduler"
    every(monkeypatch, name, share, [curve | kind], SPACINGS, types, [*ways, {"solver_order": 1}, THRESHOLD])
    every(monkeypatch, name, share, [curve | kind], types, [KARRAS, EXPONENTIAL, {"use_lu_lambdas": True}, KARRAS | MINIMUM])


@pytest.mark.parametrize("steps", [1, 4, 20, pytest.param(50, marks=pytest.mark.slow)])
def test_read_flow(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    ways: list[dict[str, Any]] = [{}, {"shift": 3.0}, {"shift": 3.0} | KARRAS, EXPONENTIAL, {"stochastic_sampling": True}]
    for said in ways + [{"shift": 3.0, "shift_terminal": 0.1}] * (steps > 1):
        same(monkeypatch, name | said, steps)
    strides = [1 - i / steps for i in range(steps)]  # what pipelines hand it
    same(monkeypatch, name | {"shift": 3.0}, steps, sigmas=strides)
    mu = 0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)
    for said in [{}, {"time_shift_type": "linear"}] + [{"shift_terminal": 0.02}] * (steps > 1):
        same(monkeypatch, name | said | {"use_dynamic_shifting": True, "shift": 3.0}, steps, mu=mu)
        same(monkeypatch, name | said | {"use_dynamic_shifting": True, "shift": 3.0}, steps, mu=mu, sigmas=strides)
    for kind, said in product([{}, SDE], [*TYPES[1:], "flow_prediction"]):
        flows = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": said}
        same(monkeypatch, {"_class_name": "DPMSolverMultistepScheduler", **flows, **kind}, steps)


PUBLISHED: dict[str, dict[str, Any]] = {
    "ddpm-cifar10-32": {
        "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_schedule": "linear",
        "beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None,
        "variance_type": "fixed_large",
    },
    "stable-diffusion-v1-4": {
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.2.2", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
        "steps_offset": 1, "trained_betas": None, "clip_sample": False,
    },
    "stable-diffusion-2-1": {
        "_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": False, "num_train_timesteps": 1000, "prediction_type": "v_prediction",
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
    },
    "stable-diffusion-xl-base-1.0": {
        "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear",
        "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None,
        "use_karras_sigmas": False,
    },
    "sdxl-turbo": {
        "_class_name": "EulerAncestralDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear", "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "steps_offset": 1, "timestep_spacing": "trailing", "trained_betas": None,
    },
    "PixArt-XL-2-512x512": {
        "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "beta_end": 0.02,
        "beta_schedule": "linear", "beta_start": 0.0001, "dynamic_thresholding_ratio": 0.995, "euler_at_final": False,
        "lambda_min_clipped": -float("inf"), "lower_order_final": True, "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "sample_max_value": 1.0, "solver_order": 2, "solver_type": "midpoint",
        "steps_offset": 0, "thresholding": False, "timestep_spacing": "linspace", "trained_betas": None,
        "use_karras_sigmas": False, "use_lu_lambdas": False, "variance_type": None,
    },
    "stable-diffusion-3-medium": {
        "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("steps", [4, 20, 50])  # the fast suite's longest
@pytest.mark.parametrize("name", PUBLISHED)
def test_read_what_is_published(name: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    same(monkeypatch, PUBLISHED[name], steps)


def test_steps_are_a_dial_of_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver that was read for one number of steps makes another as if it had been read for that."""
    for config in [*PUBLISHED.values(), {"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"}]:
        assert torch.equal(ours(replace(read(config, SHAPE, 50), steps=7)), ours(read(config, SHAPE, 7))), config


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("", {}, r"unknown scheduler \(_class_name\) ''"),
    ("DDIMSchedular", {}, "Did you mean 'DDIMScheduler'"),
    ("DDIMScheduler", {"beta_shedule": "linear"}, "'beta_shedule'.*Did you mean 'beta_schedule'"),
    ("DDIMScheduler", {"beta_schedule": "sigmoid"}, "beta_schedule of DDIMScheduler is 'sigmoid'.*nearest is linear"),
    ("DDIMScheduler", {"timestep_spacing": "trail"}, "timestep_spacing .* is 'trail'; built are .*, nearest is trailing"),
    ("DDIMScheduler", {"prediction_type": "flow_prediction"}, "prediction_type of DDIMScheduler is 'flow_prediction'"),
    ("DDIMScheduler", {"trained_betas": [0.1, 0.2]}, r"trained_betas of DDIMScheduler is \[0.1, 0.2\]"),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr.*nearest is 'v_prediction'"),
    ("DDPMScheduler", {"variance_type": "learned_range"}, "variance_type of DDPMScheduler is 'learned_range'"),
    ("DDPMScheduler", {"variance_type": "fixed_large", "timestep_spacing": "trailing"}, "nearest is 'fixed_small'"),
    ("PNDMScheduler", {}, "skip_prk_steps of PNDMScheduler is False"),
    ("PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "trailing"}, "nearest is leading"),
    ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "use_beta_sigmas of EulerDiscreteScheduler is True"),
    ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, "interpolation_type"),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "nearest is 'discrete'"),
    ("EulerDiscreteScheduler", {"sigma_min": 0.1}, r"sigma_min, sigma_max of EulerDiscreteScheduler are \(0.1, None\)"),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order of .* is 3; built are 2, 1"),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, "solver_type .* is 'heun'"),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver"}, r"nearest is sde-dpmsolver\+\+"),
    ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -5.1}, "lambda_min_clipped"),
    ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "built with use_flow_sigmas alone"),
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas"),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "tokens is 0"),
]


@pytest.mark.parametrize(("name", "said", "match"), REFUSED)
def test_what_is_not_built_is_refused_by_name_and_value(name: str, said: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read({"_class_name": name, **said}, SHAPE)


def test_more_leading_strides_than_the_chain_has_are_refused() -> None:
    solver = read(PUBLISHED["stable-diffusion-v1-4"], SHAPE, 1000)
    with pytest.raises(ValueError, match="steps is 1000; leading strides by 1"):
        ours(solver)
