"""Pictures from sentences that a second picture leads: one recipe per published system."""

from __future__ import annotations

import copy
import math
from typing import cast

from maquette.conditioners.degraded import EXAMPLES, Degraded
from maquette.conditioners.several import Several
from maquette.contracts import Objective, device_of
from maquette.data import Data
from maquette.data.cached import cached
from maquette.data.core import check_alike, noted
from maquette.experiment import Experiment, Fit
from maquette.networks.controlnet import Controlled, ControlNet
from maquette.networks.unet2d import UNet2D
from maquette.nn.degrade import Edges
from maquette.objectives.denoising import Denoising
from maquette.objectives.together import Together
from maquette.recipes._idle import refuse_idle
from maquette.recipes.pictures import captioned, latent_diffusion
from maquette.runs import trained
from maquette.samplers.solvers import Solver
from maquette.system import System

# by itself, U-Net and codec learning alongside, after 60 training seconds, one CPU thread: two runs of 48 steps, 7.9 and 7.8
CONTROLNET = {"PSNR, kept": (6.5, 40.0)}


def controlnet(
    run: str = "",
    data: str = "scenes",
    size: int = 0,
    depth: int = 1,
    steep: float = 0.1,
    drop: float = 0.1,
    delay: int = 300,
) -> Experiment:
    """ControlNet: a copy of a U-Net's way down leads the U-Net, which stays as it is (Zhang 2023, arXiv:2302.05543).

    It leads by a picture, an outline: in training that of the row's own, in samples that of the picture they start from, or a
    grey one that is an outline already. What the copy says enters by convolutions that begin as zeros. Without a run there is
    no U-Net to stay as it is: one learns alongside from scratch, with its codec, led from the first step.

    Args:
        run: of latent_diffusion, whose U-Net, codec and encoder are used as they are; empty = they learn here.
        data: a built-in set of captioned images, or a folder of yours.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial, without a run.
        steep: change from a pixel to the next from which on it is an edge, 0 .. 1.
        drop: chance that a training row is not told its caption; its outline is always told.
        delay: steps before the codec's discriminator joins in, without a run.
    """
    if run:
        refuse_idle("controlnet", locals(), "depth delay", "with a run")
    opened, base = _of_run(run, data, size) if run else _fresh(data, size, depth, delay)
    unet, sampler = base.steady("main") if run else base.nets["main"], base.sampler
    assert isinstance(unet, UNet2D) and isinstance(sampler, Solver) and base.conditioner is not None
    sides = sampler.shape[1:]
    factor = 2 ** round(math.log2(opened.facts.shape[1] / sides[0]))  # pixels to a side of a latent, as the copy reads them
    edges = Edges(opened.facts.shape, steep, (factor * sides[0], factor * sides[1]))
    main = Controlled(unet, ControlNet.beside(unet, 1, factor))
    lead = Denoising(sampler.process, drop, roles=("main", "base", "conditioner"))
    first = [] if run else [part for part in cast(Together, base.objective).parts if not isinstance(part, Denoising)]
    critics = {} if run else {name: net for name, net in base.nets.items() if name not in ("main", "ema")}
    system = System(
        {"base": unet, "main": main, "ema": copy.deepcopy(main), **critics},
        Together(*cast("list[Objective]", first), lead),
        sampler,
        base.codec,
        Several(base.conditioner, Degraded(edges)),
        frozen=("base", "codec", "conditioner") if run else (),
        follow={"ema": ("main", 0.999)},
    )
    rows = noted(opened, f"each checkpoint keeps the outlines of {EXAMPLES} training pictures, for samples that nobody gave one")
    if run:
        rows = cached(rows, base.codec.field, lambda images: base.codec.encode(images.to(device_of(base.codec))))
    return Experiment(system, rows, Fit(steps=3000, batch=64, lr=1e-3, muon=0.01, bf16=True), CONTROLNET)


def _fresh(data: str, size: int, depth: int, delay: int) -> tuple[Data, System]:
    """Captioned images, and an untrained system of latent diffusion."""
    opened = captioned("controlnet", data, size, depth)
    return opened, latent_diffusion(data=data, size=size, depth=depth, delay=delay).system


def _of_run(run: str, data: str, size: int) -> tuple[Data, System]:
    """Data that fit a run, and its system.

    Raises:
        RunError: there is no such run.
        ValueError: its network is no U-Net that is told captions, or it was trained on images of another shape.
    """
    found, experiment = trained(run)
    was, system = experiment.data.facts, experiment.system
    if "main" not in system.nets or not isinstance(system.steady("main"), UNet2D) or not was.captions:
        raise ValueError(f"{run} is a run of {found.record['recipe']}; controlnet leads the U-Net of one of latent_diffusion")
    opened = captioned("controlnet", data, size or was.size, 1)
    check_alike(f"{run} was trained on", was, opened.facts)
    return opened, system
