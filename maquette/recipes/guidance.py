"""Image models that guide themselves: one call of a network told how far, where guidance takes two."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import Tensor

from maquette.contracts import Condition, Network
from maquette.experiment import Experiment, Fit
from maquette.networks.dit import DiT
from maquette.networks.mmdit import MMDiT
from maquette.networks.unet import UNet
from maquette.objectives.guidance import Guidance
from maquette.recipes._idle import refuse_idle
from maquette.recipes.distillation import FRESH, fresh, taught
from maquette.samplers.guidance import Guided, Heeding
from maquette.samplers.solvers import Heun
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread, without a teacher; guided samples are
# less various than the data: two runs, 6.2 and 7.2, .93 and .94
GUIDANCE = {"FD-mlp128-64": (0.4, 9.0), "GAN-train": (0.9, 1.0)}


def guidance_distilled(
    data: str = "",
    size: int = 0,
    teacher: str = "",
    depth: int = 1,
    drop: float = 0.1,
    low: float = 1.0,
    high: float = 4.0,
    guidance: float = 2.0,
    share: float = 0.5,
) -> Experiment:
    """Guidance in one call: a network told the scale reads what two calls blend (Meng 2023, arXiv:2210.03142; Flux dev).

    With a teacher it is distilled from that run, whose network it begins as and whose sampler draws it; without one it learns
    from the data, and guidance from itself. Its dial `guidance` is told, at no cost. A run of consistency on one of this recipe
    is told it, too, and draws in a few steps.

    Args:
        data: a built-in image set, or a folder of images with labels; empty = the teacher's, or digits.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        teacher: a run of flow, edm, dit, mmdit, or of ddpm with estimate=v: its folder.
        depth: residual blocks per resolution; channels grow with it. With a teacher, the network is the teacher's.
        drop: chance that a training row is not told its label or caption.
        low, high: between which scales are learnt; 1 = no guidance.
        guidance: of samples, unless a dial says otherwise.
        share: of the training rows that learn guidance while the others learn the data; with a teacher, all do.
    """
    if teacher:
        refuse_idle("guidance_distilled", locals(), "depth share", "with a teacher")
    if not low <= guidance <= high:
        near = high if guidance > high else low
        raise ValueError(
            f"guidance is {guidance}; it must be one of the scales that are learnt, {low} .. {high}: nearest is {near}"
        )
    if not teacher and not low <= 1 <= high:
        raise ValueError(f"low .. high is {low} .. {high}; without a teacher 1 must be among them, which the data teach")
    recipe = "guidance_distilled"
    ground = taught(recipe, teacher, data, size) if teacher else fresh(recipe, data or "digits", size, depth)
    name = ground.data.facts.name
    if ground.conditioner is None or not ground.conditioner.drops:
        raise ValueError(f"data {name!r} have no labels to guide by; {recipe} needs some, or captions and a teacher told them")
    net, process = ground.net, ground.process
    if not isinstance(net, UNet | DiT | MMDiT):
        raise ValueError(
            f"teacher {teacher} samples with a {type(net).__name__}, which cannot be told a scale; {recipe} needs a UNet, a DiT "
            "or an MMDiT: a run of flow, edm, dit or mmdit"
        )
    teaches = {"teacher": copy.deepcopy(net)} if teacher else {}
    net.widen(1)
    sampler = ground.sampler or Heun(process, ground.shape, steps=12)
    system = System(
        {"main": net, "ema": copy.deepcopy(net), **teaches},
        Guidance(process, _blend, drop, low, high, share),
        replace(sampler, guide=Heeding(low, high), guidance=guidance, rescale=0.0),
        ground.codec,
        ground.conditioner,
        frozen=("teacher", *ground.frozen) if teacher else (),
        follow={"ema": ("main", 0.9995)},
    )
    fit = Fit(steps=1500, batch=64, lr=1e-3, bf16=True) if teacher else FRESH
    return Experiment(system, ground.rows, fit, GUIDANCE)


def _blend(net: Network, scale: Tensor, null: Condition) -> Network:
    return Guided(net, scale, null)
