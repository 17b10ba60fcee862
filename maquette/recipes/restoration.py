"""Pictures that get back what they lost, by diffusion: one recipe per published system."""

from __future__ import annotations

import copy

from maquette.codecs.pixels import Pixels
from maquette.conditioners.degraded import EXAMPLES, Degraded
from maquette.data import Data, open_data
from maquette.data.core import noted
from maquette.experiment import Experiment, Fit
from maquette.networks.onto import Onto
from maquette.networks.unet import UNet
from maquette.nn.degrade import Coarse, Grey
from maquette.objectives.denoising import Denoising
from maquette.processes import flow as straight
from maquette.recipes import UnknownName
from maquette.recipes._idle import refuse_idle
from maquette.recipes.diffusion import levels_of, shift_of
from maquette.samplers.solvers import Heun
from maquette.system import System

TASKS = ("detail", "colour")
# after 60 training seconds on the default data, one CPU thread; one run: 29.1 (bicubic 28.2)
PALETTE = {"PSNR, restored": (25.0, 40.0)}


def palette(
    data: str = "scenes", task: str = "detail", factor: int = 2, size: int = 0, depth: int = 1, augment: float = 0.0
) -> Experiment:
    """Palette: picture-to-picture diffusion, from small to large or from grey to colour (Saharia 2021, arXiv:2111.05826).

    Large from small is SR3 (Saharia 2021, arXiv:2104.07636): the picture that lost something lies beside the noise as more
    channels of the U-Net's input. The path is straight and sampled by Heun's method, where the papers' is a chain of steps; and
    the network estimates not the noise but what the picture has beyond what is left of it (Li 2021, SRDiff, sec. 3.3), so that it
    begins as interpolation.

    Args:
        data: a built-in image set, or a folder of images; those that are to get their colours back must have them.
        task: what samples give back: detail, to pictures made smaller; or colour, to grey ones.
        factor: by which the sides of pictures were made smaller.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        augment: most that what is left of a picture is dissolved in training, 0 .. 1, the network told how far (Ho 2021):
            for pictures to start from that are not like the data's; samples say how far with --about '{"noise": 0.1}'.
    """
    if task == "colour":
        refuse_idle("palette", locals(), "factor", "for the task colour")
    opened = images_of("palette", data, size, depth)
    if task not in TASKS:
        raise UnknownName("task of palette", task, list(TASKS))
    shape = opened.facts.shape
    if task == "colour" and shape[0] != 3:
        raise ValueError(f"data {data!r} are grey: they have no colours to give back; scenes has, and task detail takes grey")
    loss = Coarse(shape, factor) if task == "detail" else Grey(shape)
    folding, mults = levels_of(shape)
    process = straight.clean(shift_of(shape), spread=1.3)
    conditioner = Degraded(loss, process if augmented(augment) else None, augment)
    net = Onto(UNet(shape[0], 32 * depth, mults, depth, conditioner.width, conditioner.channels, folding=folding))
    system = System(
        {"main": net, "ema": copy.deepcopy(net)},
        Denoising(process, drop=0.0),
        Heun(process, shape, steps=12),
        Pixels(opened.facts.levels),
        conditioner,
        follow={"ema": ("main", 0.9995)},
    )
    kept = f"each checkpoint keeps what is left of {EXAMPLES} training pictures, for samples that nobody gave one to"
    return Experiment(system, noted(opened, kept), Fit(steps=3000, batch=64, lr=3e-3, muon=0.02, bf16=True), PALETTE)


def images_of(recipe: str, data: str, size: int, depth: int) -> Data:
    """The data, which must be images."""
    opened = open_data(data, size)
    if opened.facts.field != "image":
        raise ValueError(f"{recipe} models images, and data {data!r} holds {opened.facts.field}")
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be 1 or more")
    return opened


def augmented(augment: float) -> float:
    """How far sources are dissolved in training, checked."""
    if not 0 <= augment <= 1:
        raise ValueError(f"augment is {augment}; it must lie in 0 .. 1, nearest is {min(1.0, max(0.0, augment)):g}")
    return augment
