"""Image models that need few steps, most of them learnt from a trained run: one recipe per published system."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import partial

import torch

from maquette.codecs.pixels import Pixels
from maquette.conditioners.label import Labels
from maquette.conditioners.stage import Stage
from maquette.contracts import Codec, Condition, Conditioner, Network, Objective, device_of
from maquette.data import Data, open_data
from maquette.data.cached import cached
from maquette.experiment import Experiment, Fit
from maquette.networks.dit import DiT
from maquette.networks.unet import UNet
from maquette.nn.lora import whole
from maquette.objectives.consistency import Consistency
from maquette.objectives.denoising import Denoising
from maquette.objectives.guidance import Guidance
from maquette.objectives.reflow import Reflow
from maquette.objectives.shortcut import Shortcut
from maquette.objectives.together import Together
from maquette.processes import flow as straight
from maquette.processes.gaussian import Balanced, Gaussian
from maquette.processes.strides import Strides
from maquette.recipes._idle import refuse_idle
from maquette.recipes.diffusion import SPREAD, levels_of, shift_of
from maquette.runs import trained
from maquette.samplers.guidance import Heeding, guided
from maquette.samplers.solvers import Euler, Leaps, Solver, Strider
from maquette.system import System

# after 60 training seconds, of consistency 90, on the default data, one CPU thread, without a teacher
CONSISTENCY = {"FD-mlp128-64": (0.5, 2.6), "GAN-train": (0.89, 1.0)}
REFLOW = {"FD-mlp128-64": (0.4, 1.2), "GAN-train": (0.94, 1.0)}
SHORTCUT = {"FD-mlp128-64": (0.4, 2.0), "GAN-train": (0.92, 1.0)}  # one run: .90 and .947
FRESH = Fit(steps=1500, batch=64, lr=3e-3, muon=0.02, bf16=True)  # of what has no teacher to begin as
CLEAREST = 20.0  # most that an estimate's error may be multiplied by at t = 1


def consistency(
    data: str = "",
    size: int = 0,
    teacher: str = "",
    depth: int = 1,
    drop: float = 0.1,
    intervals: int = 4,
    most: int = 16,
    guidance: float = 1.0,
) -> Experiment:
    """A consistency model: noise to image in one step, or a few (Song 2023, arXiv:2303.01469).

    With a teacher it is distilled from that run, whose network it begins as; without one it is trained on the data alone.

    Args:
        data: a built-in image set, or a folder of images; empty = the teacher's, or digits.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        teacher: a run of flow, edm, dit, latent_diffusion, mmdit, guidance_distilled, or of ddpm with estimate=v: its folder.
        depth: residual blocks per resolution; channels grow with it. With a teacher, the network is the teacher's.
        drop: chance that a training row is not told its label.
        intervals: into how many the path from noise to data is cut at first.
        most: and at last; twice as many every 200 steps.
        guidance: that the teacher is under while it is learnt from; the student then needs none. 1 = none. The student of a
            teacher that guides itself is told it, as its teacher is: leave it at 1, and turn the sampler's dial.
    """
    if teacher:
        refuse_idle("consistency", locals(), "depth", "with a teacher")
    if not math.isfinite(guidance):
        raise ValueError(f"guidance is {guidance}; it must be a finite number, 1 = none")
    if guidance != 1 and not teacher:
        raise ValueError(f"guidance is {guidance}, but there is no teacher to guide; without one it must be 1")
    ground = (
        taught("consistency", teacher, data, size, (Guidance,))
        if teacher
        else fresh("consistency", data or "digits", size, depth)
    )
    if guidance != 1 and ground.conditioner is None:
        name = ground.data.facts.name
        raise ValueError(f"guidance is {guidance}, but data {name!r} have no labels to guide by; it must be 1")
    scales = ground.scales
    if guidance != 1 and scales is not None:
        raise ValueError(f"guidance is {guidance}, but teacher {teacher} guides itself, and so will its student; it must be 1")
    net, process = ground.net, ground.process
    leaps = Leaps(process, ground.shape, fresh=0.95)  # all fresh loses variety: docs/LOG.md
    if scales is not None and ground.sampler is not None:
        leaps = replace(leaps, guide=Heeding(*scales), guidance=ground.sampler.guidance)
    nets = {"main": net, "ema": copy.deepcopy(net), "target": copy.deepcopy(net)}
    system = System(
        {**nets, "teacher": copy.deepcopy(net)} if teacher else nets,
        Consistency(process, drop, intervals, most, guide=partial(_guided, guidance) if guidance != 1 else None, scales=scales),
        leaps,
        ground.codec,
        ground.conditioner,
        frozen=("teacher", *ground.frozen) if teacher else (),
        follow={"ema": ("main", 0.9999), "target": ("main", 0.7)},
    )
    fit = Fit(steps=1500, batch=32, lr=1.5e-3, muon=0.005, bf16=True) if teacher else FRESH
    return Experiment(system, ground.rows, fit, CONSISTENCY, 90)


def reflow(
    data: str = "", size: int = 0, teacher: str = "", depth: int = 1, drop: float = 0.1, pool: int = 4096, walk: int = 8
) -> Experiment:
    """Rectified flow: paths made straight by learning a trained flow's own pairs of noise and image (Liu 2023, arXiv:2209.03003).

    Without a teacher it is the first rectified flow, between data and any noise; with one, which may itself be a run of
    this recipe, it is the next. It begins as its teacher, and is drawn by few steps of Euler's.

    Args:
        data: a built-in image set, or a folder of images; empty = the teacher's, or digits.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        teacher: a run of flow, dit or reflow: its folder.
        depth: residual blocks per resolution; channels grow with it. With a teacher, the network is the teacher's.
        drop: chance that a training row is not told its label.
        pool: pairs of noise and image that are kept and used again.
        walk: Heun steps by which the teacher makes an image.
    """
    if teacher:
        refuse_idle("reflow", locals(), "depth", "with a teacher")
    else:
        refuse_idle("reflow", locals(), "pool walk", "without a teacher")
    ground = taught("reflow", teacher, data, size) if teacher else fresh("reflow", data or "digits", size, depth)
    net, process, conditioner = ground.net, ground.process, ground.conditioner
    if teacher:
        _check_straight("reflow", teacher, process)
    if conditioner is not None and not isinstance(conditioner, Labels):
        read = ", ".join(conditioner.fields)
        raise ValueError(f"teacher {teacher} is told {read}; reflow keeps pairs with labels only: consistency learns from any")
    fields = conditioner.fields if conditioner is not None else ()
    objective = Reflow(process, ground.shape, drop, fields, pool if teacher else 0, walk=walk)
    system = System(
        {"main": net, "ema": copy.deepcopy(net), **({"teacher": copy.deepcopy(net)} if teacher else {})},
        objective,
        Euler(process, ground.shape, steps=4 if teacher else 20),
        ground.codec,
        conditioner,
        frozen=("teacher", *ground.frozen) if teacher else (),
        follow={"ema": ("main", 0.9999)},
    )
    return Experiment(system, ground.rows, Fit(steps=1500, batch=64, lr=1e-3, bf16=True) if teacher else FRESH, REFLOW)


def shortcut(
    data: str = "", size: int = 0, teacher: str = "", depth: int = 1, drop: float = 0.1, finest: int = 8, share: float = 0.0
) -> Experiment:
    """A shortcut model: one network for 1, 2, 4 or more steps, told how far each goes (Frans 2024, arXiv:2410.12557).

    It learns a flow and, in the same run, that one long step must end where two of its own half steps do. With a teacher it
    begins as that flow's network, which knows no lengths of steps yet; without one it is trained from scratch, as in the paper.

    Args:
        data: a built-in image set, or a folder of images; empty = the teacher's, or digits.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        teacher: a run of flow, dit or reflow: its folder.
        depth: residual blocks per resolution; channels grow with it. With a teacher, the network is the teacher's.
        drop: chance that a training row is not told its label.
        finest: shortest steps on the way from noise to data, a power of two; the paper's 128 wants longer training.
        share: of the training rows that learn longer steps, while the others learn the flow; 0 = the paper's quarter, or half
            with a teacher, whose flow is learnt already.
    """
    if teacher:
        refuse_idle("shortcut", locals(), "depth", "with a teacher")
    strides = Strides(finest)
    ground = taught("shortcut", teacher, data, size) if teacher else fresh("shortcut", data or "digits", size, depth)
    net, process = ground.net, ground.process
    if teacher:
        _check_straight("shortcut", teacher, process)
    if not isinstance(net, UNet | DiT):
        raise ValueError(f"teacher {teacher} samples with a {type(net).__name__}; shortcut needs a UNet or a DiT")
    net.widen(strides.width)
    system = System(
        {"main": net, "ema": copy.deepcopy(net), "target": copy.deepcopy(net)},
        Shortcut(process, strides, drop, share or (0.5 if teacher else 0.25)),
        Strider(process, ground.shape, strides=strides),
        ground.codec,
        ground.conditioner,
        frozen=ground.frozen,
        follow={"ema": ("main", 0.9999), "target": ("main", 0.9)},
    )
    return Experiment(system, ground.rows, Fit(steps=1500, batch=64, lr=2e-3, bf16=True) if teacher else FRESH, SHORTCUT)


def _guided(scale: float, net: Network, null: Condition | None) -> Network:
    return guided(net, scale, null)


def _check_straight(recipe: str, teacher: str, process: Gaussian) -> None:
    if not isinstance(process.schedule, straight.Straight):
        raise ValueError(f"teacher {teacher} does not follow the straight path; {recipe} needs a run of flow, dit or reflow")


@dataclass(frozen=True)
class Ground:
    """What a student stands on.

    Args:
        data: whose rows it learns from.
        process: how codes dissolve.
        net: what it begins as.
        codec, conditioner: a teacher's own, or pixels and labels.
        shape: of a code.
        frozen: which of the two stay as a teacher has them.
        sampler: a teacher's.
        scales: of guidance, that a teacher who guides itself was taught.
    """

    data: Data
    process: Gaussian
    net: Network
    codec: Codec
    conditioner: Conditioner | None
    shape: tuple[int, ...]
    frozen: tuple[str, ...] = ()
    sampler: Solver | None = None
    scales: tuple[float, float] | None = None

    @property
    def rows(self) -> Data:
        """The data, each row with its code where that costs a network to make."""
        if "codec" not in self.frozen:
            return self.data
        return cached(self.data, self.codec.field, lambda rows: self.codec.encode(rows.to(device_of(self.codec))))


def fresh(recipe: str, data: str, size: int, depth: int) -> Ground:
    """Data, the straight path, and an untrained U-Net."""
    opened = open_data(data, size)
    _check_images(recipe, data, opened)
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be 1 or more")
    facts = opened.facts
    folding, mults = levels_of(facts.shape)
    net = UNet(facts.shape[0], 32 * depth, mults, depth, vector=len(facts.classes), folding=folding)
    process = straight.flow(shift_of(facts.shape), reading=Balanced(SPREAD))
    return Ground(opened, process, net, Pixels(facts.levels), Labels(facts.shares) if facts.classes else None, facts.shape)


def taught(recipe: str, teacher: str, data: str, size: int, also: tuple[type[Objective], ...] = ()) -> Ground:
    """A teacher's data (or other data that fit it), its parts, and a copy of the network it samples with.

    Args:
        also: further objectives that a teacher may have been trained by.

    Raises:
        ValueError: it is no denoiser of images, cannot be read at full noise, or was trained on other shapes or classes.
    """
    run, experiment = trained(teacher)
    theirs, objective, name = experiment.data.facts, experiment.system.objective, run.record["recipe"]
    if isinstance(objective, Together):
        objective = objective.last
    kinds = (Denoising, Reflow, *also)
    if not isinstance(objective, kinds) or not isinstance(objective.process, Gaussian):
        raise ValueError(
            f"teacher {teacher} is a run of {name}; {recipe} learns from one of flow, edm, dit, ddpm, latent_diffusion or mmdit"
        )
    process = objective.process
    with torch.device("cpu"):
        alpha, sigma = process.schedule.levels(torch.ones(1))
        _, out = process.reading.scales(alpha, sigma)
    if abs(float(out)) > CLEAREST * float(sigma):
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
    system = experiment.system
    net = copy.deepcopy(whole(system.steady("main"))).requires_grad_(True).train()
    if system.conditioner is not None and any(isinstance(part, Stage) for part in system.conditioner.modules()):
        raise ValueError(
            f"teacher {teacher}, a run of {name}, is told what other networks of it draw; {recipe} takes none of them along"
        )
    parts = {"codec": system.codec, "conditioner": system.conditioner}
    frozen = tuple(name for name, part in parts.items() if part is not None and next(part.parameters(), None) is not None)
    assert isinstance(system.sampler, Solver)
    scales = (objective.low, objective.high) if isinstance(objective, Guidance) else None
    shape = system.sampler.shape
    return Ground(opened, process, net, system.codec, system.conditioner, shape, frozen, system.sampler, scales)


def _check_images(recipe: str, data: str, opened: Data) -> None:
    if opened.facts.field != "image":
        raise ValueError(f"{recipe} models images, and data {data!r} holds {opened.facts.field}")
