"""A diffusers scheduler_config.json as one of the house's solvers, over the process that its network was trained with.

Knows the names and defaults of diffusers' configurations, no network and no weights. What is drawn equals theirs, given the
same noise. Networks hear time t in 0..1: index k of a chain as (k + 1) / total, a flow's sigma as it is.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from maquette.processes.chain import Arc, Bent, Curve, Emptied, Ends, Even, Leading, Rise, Trailing
from maquette.processes.flow import Drift, Straight
from maquette.processes.gaussian import Betas, Clean, Gaussian, Noise, Reading, Scaled, Schedule, Stepped, Velocity, View
from maquette.processes.karras import Growing, Shrunk, grown
from maquette.recipes import UnknownName, nearest
from maquette.samplers.multistep import PLMS
from maquette.samplers.solvers import DDIM, DPM, Ancestral, Euler, Heun, Leaps, Solver

_FLOOR = 2.0**-24  # alpha^2 that theirs keep at an emptied end where sigma / alpha must be finite
_CHAIN = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
}
_CLIPS = {
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
_BENDS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_ENDS = {"final_sigmas_type": "zero", "rescale_betas_zero_snr": False}
_SPACED = {"timestep_spacing": "linspace"}
_DEFAULTS: dict[str, dict[str, Any]] = {  # what each class reads, and what it takes where nothing is said
    "DDPMScheduler": {
        **_CHAIN, **_CLIPS, "timestep_spacing": "leading", "variance_type": "fixed_small", "rescale_betas_zero_snr": False,
    },
    "DDIMScheduler": {
        **_CHAIN, **_CLIPS, "timestep_spacing": "leading", "set_alpha_to_one": True, "rescale_betas_zero_snr": False,
    },
    "PNDMScheduler": {**_CHAIN, "timestep_spacing": "leading", "set_alpha_to_one": False, "skip_prk_steps": False},
    "EulerDiscreteScheduler": {
        **_CHAIN, **_BENDS, **_ENDS, **_SPACED,
        "interpolation_type": "linear", "timestep_type": "discrete", "sigma_min": None, "sigma_max": None,
    },
    "EulerAncestralDiscreteScheduler": {**_CHAIN, **_SPACED, "rescale_betas_zero_snr": False},
    "HeunDiscreteScheduler": {
        **_CHAIN, **_BENDS, **_SPACED,
        "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "clip_sample_range": 1.0,
    },
    "DPMSolverMultistepScheduler": {
        **_CHAIN, **_BENDS, **_ENDS, **_SPACED,
        "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
        "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": True,
        "euler_at_final": False, "use_lu_lambdas": False, "use_flow_sigmas": False, "flow_shift": 1.0,
        "lambda_min_clipped": -math.inf, "variance_type": None, "use_dynamic_shifting": False, "time_shift_type": "exponential",
    },
    "FlowMatchEulerDiscreteScheduler": {
        **_BENDS, "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, "base_shift": 0.5,
        "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096, "invert_sigmas": False,
        "shift_terminal": None, "time_shift_type": "exponential", "stochastic_sampling": False,
    },
}  # fmt: skip
_ONLY: dict[str, tuple[Any, ...]] = {  # what is built of it, wherever a class reads it
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": (None,),
    "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", None),
    "skip_prk_steps": (True,),
    "use_beta_sigmas": (False, None),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete", "continuous"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "solver_order": (2, 1),
    "solver_type": ("midpoint",),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    "lambda_min_clipped": (-math.inf,),
    "invert_sigmas": (False,),
    "time_shift_type": ("exponential", "linear"),
}
_READINGS: dict[str, Reading] = {
    "epsilon": Noise(),
    "v_prediction": Velocity(),
    "sample": Clean(),
    "flow_prediction": Drift(),
}
Said = Mapping[str, Any]


def read(config: Said, shape: tuple[int, ...], steps: int = 50, tokens: int = 0, own: bool = True) -> Solver:
    """The solver that a scheduler_config.json asks for; its process is the one to train with, too.

    Args:
        config: the file's content; what it does not say is as its class has it.
        shape: of one code.
        steps: looks at the network, or pairs of them for Heun's.
        tokens: how many places the network sees of a code, for `use_dynamic_shifting`; 0 where nothing depends on it.
        own: a flow's times are the scheduler's own; else those its pipelines hand it, even strides from 1 to 1 / steps.

    Raises:
        ValueError: it asks for what is not built here, by name and value; or a name is misspelt.
    """
    name = config.get("_class_name")
    if name not in _DEFAULTS:
        raise UnknownName("scheduler (_class_name)", name, list(_DEFAULTS))
    known = {name for defaults in _DEFAULTS.values() for name in defaults}
    for said in config:
        if said not in known and difflib.get_close_matches(said, known, 1, 0.85):  # others mean nothing to theirs either
            raise UnknownName("name in a scheduler's configuration", said, sorted(known))
    plan = {**_DEFAULTS[name], **{key: value for key, value in config.items() if key in _DEFAULTS[name]}}
    for key, allowed in _ONLY.items():
        if key in plan and plan[key] not in allowed:
            _refuse(name, key, plan[key], allowed)
    return _READERS[name](plan, shape, steps, tokens, own)


def _refuse(name: str, key: str, value: Any, allowed: tuple[Any, ...]) -> None:
    near = nearest(str(value), [str(each) for each in allowed]) or str(allowed[0])
    raise ValueError(f"{key} of {name} is {value!r}; built are {', '.join(map(repr, allowed))}, nearest is {near}")


def _curve(plan: Said, floor: float) -> Curve:
    """The betas: `floor` is what an emptied end keeps."""
    power = {"linear": 1.0, "scaled_linear": 2.0}.get(plan["beta_schedule"])
    curve: Curve = Rise(plan["beta_start"], plan["beta_end"], power, single=True) if power else Arc()
    return Emptied(curve, floor) if plan.get("rescale_betas_zero_snr") else curve


def _spacing(plan: Said, fine: bool = False, spare: int = 0) -> Even:
    """The steps that are visited: `fine` and `spare` as in `Ends`."""
    kinds = {"trailing": Trailing(), "leading": Leading(plan["steps_offset"], spare), "linspace": Ends(spare, fine)}
    return kinds[plan["timestep_spacing"]]


def _bend(plan: Said) -> float:
    """rho of Karras's spacing; infinite for exponential ones, 0 = none."""
    if plan["use_karras_sigmas"] and plan["use_exponential_sigmas"]:
        raise ValueError("use_karras_sigmas and use_exponential_sigmas are both True; only one can be")
    return 7.0 if plan["use_karras_sigmas"] else math.inf if plan["use_exponential_sigmas"] else 0.0


def _bounds(plan: Said) -> dict[str, Any]:
    """Dials of the solver that keep its estimates within bounds."""
    if plan.get("thresholding"):
        return {"quantile": plan["dynamic_thresholding_ratio"], "most": plan["sample_max_value"]}
    return {"clip": plan["clip_sample_range"]} if plan.get("clip_sample") else {}


def _vp(plan: Said, name: str, spacing: Even, ends: int) -> Gaussian:
    """The chain of a scheduler that visits whole steps and begins with noise of deviation 1."""
    if plan["prediction_type"] == "flow_prediction":
        _refuse(name, "prediction_type", "flow_prediction", ("v_prediction", "epsilon", "sample"))
    if plan.get("rescale_betas_zero_snr") and plan["prediction_type"] == "epsilon":
        raise ValueError(
            f"prediction_type of {name} is 'epsilon' with rescale_betas_zero_snr: nothing of the data is left to be found by "
            "taking noise away; nearest is 'v_prediction'"
        )
    betas = Betas(plan["num_train_timesteps"], _curve(plan, 0.0), spacing, ends)
    return Gaussian(betas, _READINGS[plan["prediction_type"]], unit=True)


def _ddpm(plan: Said, shape: tuple[int, ...], steps: int, tokens: int, own: bool) -> Solver:
    large = plan["variance_type"] == "fixed_large"
    if large and (plan["timestep_spacing"] == "trailing" or (plan["timestep_spacing"] == "leading" and plan["steps_offset"])):
        raise ValueError(
            f"variance_type of DDPMScheduler is 'fixed_large' with timestep_spacing {plan['timestep_spacing']!r} and "
            f"steps_offset {plan['steps_offset']}: theirs leaves the last step's noise in the sample; nearest is 'fixed_small'"
        )
    process = _vp(plan, "DDPMScheduler", _spacing(plan), 0)
    return Ancestral(process, shape, steps, large=large, **_bounds(plan))


def _ddim(plan: Said, shape: tuple[int, ...], steps: int, tokens: int, own: bool) -> Solver:
    process = _vp(plan, "DDIMScheduler", _spacing(plan), 0 if plan["set_alpha_to_one"] else 1)
    chain = 0 if plan["timestep_spacing"] == "leading" else plan["num_train_timesteps"]
    return DDIM(process, shape, steps, loose=True, chain=chain, **_bounds(plan))


def _pndm(plan: Said, shape: tuple[int, ...], steps: int, tokens: int, own: bool) -> Solver:
    if plan["timestep_spacing"] != "leading":
        _refuse("PNDMScheduler", "timestep_spacing", plan["timestep_spacing"], ("leading",))
    return PLMS(_vp(plan, "PNDMScheduler", _spacing(plan), 0 if plan["set_alpha_to_one"] else 1), shape, steps)


def _unbounded(plan: Said, name: str) -> Gaussian:
    """The chain of a scheduler that walks x_t / alpha."""
    if plan["prediction_type"] == "flow_prediction":
        _refuse(name, "prediction_type", "flow_prediction", ("v_prediction", "epsilon", "sample"))
    within, rho = _spacing(plan, fine=True), _bend(plan) if "use_karras_sigmas" in plan else 0.0
    ends = 1 if plan.get("final_sigmas_type") == "sigma_min" else 0
    betas = Betas(plan["num_train_timesteps"], _curve(plan, _FLOOR), Bent(rho, within) if rho else within, ends)
    # a walk that begins below the chain's end begins with all of the variance there, not with the noise's share alone
    return grown(Gaussian(betas, _READINGS[plan["prediction_type"]], unit=plan["timestep_spacing"] == "leading"))


def _euler(plan: Said, shape: tuple[int, ...], steps: int, tokens: int, own: bool) -> Solver:
    bounds = plan["sigma_min"], plan["sigma_max"]
    if plan["timestep_type"] == "continuous":
        if None in bounds or plan["prediction_type"] != "v_prediction" or not plan["use_karras_sigmas"]:
            raise ValueError(
                "timestep_type of EulerDiscreteScheduler is 'continuous'; built with sigma_min, sigma_max, v_prediction and "
                "use_karras_sigmas alone, nearest is 'discrete'"
            )
        if plan["final_sigmas_type"] != "zero":
            _refuse("EulerDiscreteScheduler", "final_sigmas_type", plan["final_sigmas_type"], ("zero",))
        schedule = Growing(lowest=bounds[0], highest=bounds[1])
        unit = plan["timestep_spacing"] == "leading"
        return Euler(Gaussian(schedule, Shrunk(Velocity()), view=Scaled(1.0), unit=unit), shape, steps)
    if bounds != (None, None):
        raise ValueError(f"sigma_min, sigma_max of EulerDiscreteScheduler are {bounds}; built with 'continuous' times, else None")
    return Euler(_unbounded(plan, "EulerDiscreteScheduler"), shape, steps)


def _euler_ancestral(plan: Said, shape: tuple[int, ...], steps: int, tokens: int, own: bool) -> Solver:
    return Ancestral(_unbounded(plan, "EulerAncestralDiscreteScheduler"), shape, steps)


def _heun(plan: Said, shape: tuple[int, ...], steps: int, tokens: int, own: bool) -> Solver:
    return Heun(_unbounded(plan, "HeunDiscreteScheduler"), shape, steps, **_bounds(plan))


def _dpm(plan: Said, shape: tuple[int, ...], steps: int, tokens: int, own: bool) -> Solver:
    name, flows = "DPMSolverMultistepScheduler", plan["use_flow_sigmas"]
    if plan["variance_type"] is not None:
        _refuse(name, "variance_type", plan["variance_type"], (None,))
    rho = math.inf if plan["use_lu_lambdas"] else _bend(plan)
    total, ends = plan["num_train_timesteps"], 1 if plan["final_sigmas_type"] == "sigma_min" else 0
    schedule: Schedule
    view: View | None = None
    if flows and not rho:
        if ends:
            _refuse(name, "final_sigmas_type with use_flow_sigmas", "sigma_min", ("zero",))
        shift = _shift(plan, tokens, plan["flow_shift"])
        schedule, view = Straight(shift, ends=(1 - 1 / total, 0.0)), Stepped(total, cut=True)
    elif flows or plan["prediction_type"] == "flow_prediction":
        raise ValueError(f"prediction_type of {name} is 'flow_prediction'; built with use_flow_sigmas alone, and with no bend")
    else:
        spacing = Bent(rho, logs=plan["use_lu_lambdas"]) if rho else _spacing(plan, spare=1)
        schedule = Betas(total, _curve(plan, _FLOOR), spacing, ends)
        if rho:  # theirs are whole numbers: rounded by Karras's and Lu's, cut by others and where the curve is a cosine
            rounded = plan["beta_schedule"] != "squaredcos_cap_v2" and not plan["use_exponential_sigmas"]
            view = Stepped(total, cut=not rounded)
    process = Gaussian(schedule, _READINGS[plan["prediction_type"]], view=view, unit=True)
    fresh = plan["algorithm_type"].startswith("sde")
    if plan["solver_order"] == 1:
        return (Ancestral if fresh else Euler)(process, shape, steps, **_bounds(plan))
    settle = math.inf if plan["euler_at_final"] else 15 if plan["lower_order_final"] else 0
    return DPM(process, shape, steps, fresh=fresh, settle=settle, **_bounds(plan))


def _shift(plan: Said, tokens: int, fixed: float) -> float:
    """How far times are shifted: a fixed number, or one that grows with the tokens of a code (Esser 2024, sec. 5.3.2)."""
    if not plan["use_dynamic_shifting"]:
        return fixed
    if tokens < 1:
        raise ValueError(f"use_dynamic_shifting asks how many tokens the network sees of a code; tokens is {tokens}")
    near, far = plan.get("base_image_seq_len", 256), plan.get("max_image_seq_len", 4096)
    low, high = plan.get("base_shift", 0.5), plan.get("max_shift", 1.15)
    mu = low + (high - low) * (tokens - near) / (far - near)
    return mu if plan["time_shift_type"] == "linear" else math.exp(mu)


def _flow(plan: Said, shape: tuple[int, ...], steps: int, tokens: int, own: bool) -> Solver:
    total, rho = plan["num_train_timesteps"], _bend(plan)
    shift = _shift(plan, tokens, plan["shift"])
    last = 1 / total
    if not plan["use_dynamic_shifting"]:  # theirs shifts its own least time twice
        last = shift * last / (1 + (shift - 1) * last)
    schedule = Straight(shift, ends=(1.0, last if own else 0.0), terminal=plan["shift_terminal"] or 0.0, rho=rho)
    process = Gaussian(schedule, Drift(), Drift(), cap=400.0)
    return Leaps(process, shape, steps) if plan["stochastic_sampling"] else Euler(process, shape, steps)


_READERS: dict[str, Callable[[Said, tuple[int, ...], int, int, bool], Solver]] = {
    "DDPMScheduler": _ddpm,
    "DDIMScheduler": _ddim,
    "PNDMScheduler": _pndm,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _euler_ancestral,
    "HeunDiscreteScheduler": _heun,
    "DPMSolverMultistepScheduler": _dpm,
    "FlowMatchEulerDiscreteScheduler": _flow,
}
