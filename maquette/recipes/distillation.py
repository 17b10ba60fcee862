"""Image models that need few steps, most of them learnt from a trained run: one recipe per published system."""

from __future__ import annotations

import copy
from typing import Any

from maquette.codecs.pixels import Pixels
from maquette.conditioners.label import Labels
from maquette.data import Data, open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.unet import UNet
from maquette.objectives.consistency import Consistency
from maquette.objectives.denoising import Denoising
from maquette.processes import flow as straight
from maquette.processes.gaussian import Balanced, Gaussian
from maquette.recipes.diffusion import SPREAD, levels_of, shift_of
from maquette.runs import trained
from maquette.samplers.solvers import Leaps
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread, without a teacher
CONSISTENCY = {"FD-mlp128-64": (0.4, 5.0), "GAN-train": (0.8, 1.0)}
CLEAREST = 20.0  # most that an estimate's error may be multiplied by at t = 1


def consistency(
    data: str = "", size: int = 0, teacher: str = "", depth: int = 1, drop: float = 0.1, intervals: int = 4, most: int = 32
) -> Experiment:
    """A consistency model: noise to image in one step, or a few (Song 2023, arXiv:2303.01469).

    With a teacher it is distilled from that run, whose network it begins as; without one it is trained on the data alone.

    Args:
        data: a built-in image set, or a folder of images; empty = the teacher's, or digits.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        teacher: a run of flow, edm, dit, or of ddpm with estimate=v: its folder.
        depth: residual blocks per resolution; channels grow with it. With a teacher, the network is the teacher's.
        drop: chance that a training row is not told its label.
        intervals: into how many the path from noise to data is cut at first.
        most: and at last; twice as many every 200 steps.
    """
    if teacher:
        opened, process, net = _taught("consistency", teacher, data, size)
    else:
        opened = open_data(data or "digits", size)
        _check_images("consistency", data or "digits", opened)
        if depth < 1:
            raise ValueError(f"depth is {depth}; it must be 1 or more")
        facts = opened.facts
        folding, mults = levels_of(facts.shape)
        net = UNet(facts.shape[0], 32 * depth, mults, depth, vector=len(facts.classes), folding=folding)
        process = straight.flow(shift_of(facts.shape), reading=Balanced(SPREAD))
    facts = opened.facts
    nets = {"main": net, "ema": copy.deepcopy(net), "target": copy.deepcopy(net)}
    system = System(
        {**nets, "teacher": copy.deepcopy(net)} if teacher else nets,
        Consistency(process, drop, intervals, most),
        Leaps(process, facts.shape),
        Pixels(facts.levels),
        Labels(facts.shares) if facts.classes else None,
        frozen=("teacher",) if teacher else (),
        follow={"ema": ("main", 0.9999), "target": ("main", 0.9)},
    )
    return Experiment(system, opened, Fit(steps=1500, batch=64, lr=1e-3 if teacher else 3e-3, bf16=True), CONSISTENCY)


def _taught(recipe: str, teacher: str, data: str, size: int) -> tuple[Data, Gaussian, Any]:
    """A teacher's data (or other data that fit it), its process, and a copy of the network it samples with.

    Raises:
        ValueError: it is no denoiser of images, cannot be read at full noise, or was trained on other shapes or classes.
    """
    run, experiment = trained(teacher)
    theirs, objective, name = experiment.data.facts, experiment.system.objective, run.record["recipe"]
    if not isinstance(objective, Denoising) or not isinstance(objective.process, Gaussian):
        raise ValueError(f"teacher {teacher} is a run of {name}; {recipe} learns from one of flow, edm, dit or ddpm")
    process = objective.process
    ends = process.reading.scales(*process.schedule.levels(experiment.system.age.new_ones(1).float()))
    if abs(float(ends[1])) > CLEAREST * float(process.schedule.levels(ends[1].new_ones(1))[1]):
        raise ValueError(
            f"teacher {teacher} estimates the noise, from which no image can be read at full noise: {recipe} needs one that "
            f"was trained with estimate=v, or flow, edm or dit"
        )
    opened = open_data(data or theirs.name, size or theirs.size)
    _check_images(recipe, data or theirs.name, opened)
    facts = opened.facts
    if (facts.shape, facts.classes) != (theirs.shape, theirs.classes):
        shapes = [" x ".join(map(str, found.shape)) for found in (theirs, facts)]
        raise ValueError(
            f"teacher {teacher} knows images of {shapes[0]} in {len(theirs.classes)} classes ({theirs.name}); "
            f"data {facts.name!r} are of {shapes[1]} in {len(facts.classes)} classes: leave data empty to use the teacher's"
        )
    net = copy.deepcopy(experiment.system.steady("main")).requires_grad_(True).train()
    return opened, process, net


def _check_images(recipe: str, data: str, opened: Data) -> None:
    if opened.facts.field != "image":
        raise ValueError(f"{recipe} models images, and data {data!r} holds {opened.facts.field}")
