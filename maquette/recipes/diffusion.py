"""Diffusion and flow matching of images: one recipe per published system."""

from __future__ import annotations

import copy
import math

from maquette.codecs.pixels import Pixels
from maquette.conditioners.label import Labels
from maquette.data import Data, open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.unet import UNet
from maquette.objectives.denoising import Denoising
from maquette.processes import flow as straight
from maquette.processes.gaussian import Balanced, Betas, Cosine, Gaussian, Noise, Schedule
from maquette.recipes import UnknownName
from maquette.samplers.solvers import Ancestral, Heun, Solver
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread
FLOW = {"FD-mlp128-64": (0.4, 0.9), "GAN-train": (0.945, 1.0), "C2ST forest": (0.5, 0.75), "NN distance": (1.0, 1.4)}
DDPM = {"FD-mlp128-64": (0.4, 1.3), "GAN-train": (0.93, 1.0)}


def flow(data: str = "digits", size: int = 0, depth: int = 1, dropout: float = 0.0, drop: float = 0.1) -> Experiment:
    """Flow matching with a U-Net, told the label where there is one (Lipman 2023, arXiv:2210.02747).

    The straight path of rectified flow (Liu 2023) at logit-normal times (Esser 2024); sampled by Heun's method.
    The network's output is preconditioned (Karras 2022).

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        dropout: share of hidden activations dropped in training; above 0 suits small data and long runs.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
    """
    opened = _images("flow", data, size)
    shift = min(1.0, math.sqrt(min(opened.facts.shape[1:]) / 32))
    process = straight.flow(shift, spread=1.3, reading=Balanced(0.75))  # images in -1 .. 1 have a deviation near 0.75
    return _experiment(opened, process, Heun(process, opened.facts.shape, steps=12), depth, dropout, drop, FLOW)


def ddpm(
    data: str = "digits", size: int = 0, depth: int = 1, dropout: float = 0.0, drop: float = 0.1, schedule: str = "linear"
) -> Experiment:
    """Denoising diffusion: a U-Net estimates the noise, samples are drawn ancestrally (Ho 2020, arXiv:2006.11239).

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        dropout: share of hidden activations dropped in training; above 0 suits small data and long runs.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
        schedule: linear, the paper's 1,000 betas; or cosine (Nichol & Dhariwal 2021).
    """
    schedules: dict[str, Schedule] = {"linear": Betas(), "cosine": Cosine()}
    if schedule not in schedules:
        raise UnknownName("schedule of ddpm", schedule, list(schedules))
    opened = _images("ddpm", data, size)
    process = Gaussian(schedules[schedule], Noise())
    return _experiment(opened, process, Ancestral(process, opened.facts.shape, clip=1.0), depth, dropout, drop, DDPM)


def _images(recipe: str, data: str, size: int) -> Data:
    """The data, which must be images."""
    opened = open_data(data, size)
    if opened.facts.field != "image":
        raise ValueError(f"{recipe} models images, and data {data!r} holds {opened.facts.field}")
    return opened


def _experiment(
    opened: Data,
    process: Gaussian,
    sampler: Solver,
    depth: int,
    dropout: float,
    drop: float,
    expected: dict[str, tuple[float, float]],
) -> Experiment:
    """A U-Net under the process, with a running average of its weights to sample from."""
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in 0 .. 1 (without 1), and 0.1 suits small data")
    facts = opened.facts
    conditioner = Labels(facts.shares) if facts.classes else None
    folding, mults = levels_of(facts.shape)
    told = conditioner.width if conditioner else 0
    net = UNet(facts.shape[0], 32 * depth, mults, depth, vector=told, dropout=dropout, folding=folding)
    system = System(
        {"main": net, "ema": copy.deepcopy(net)},
        Denoising(process, drop),
        sampler,
        Pixels(facts.levels),
        conditioner,
        follow={"ema": ("main", 0.9999)},
    )
    return Experiment(system, opened, Fit(steps=3000, batch=64, lr=3e-3, bf16=True), expected)


def levels_of(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """How a U-Net of images [C,H,W] is cut: (folding, channel multiples), its lowest resolution 4 to 7 where it can be.

    Images above 16 pixels have squares of 2 x 2 folded into channels, which costs a CPU a third of the time.

    Raises:
        ValueError: sides so odd that attention would see more than 1,024 places.
    """
    side, other = min(shape[1:]), max(shape[1:])
    folding = 2 if side > 16 and side % 2 == other % 2 == 0 else 1
    side, other, count = side // folding, other // folding, 1
    while side >= 8 and side % 2 == other % 2 == 0:
        side, other, count = side // 2, other // 2, count + 1
    if side * other > 1024:
        raise ValueError(
            f"images of {shape[1]} x {shape[2]} pixels cannot be halved often enough for this U-Net; "
            f"try --size {max(8, round(min(shape[1:]) / 8) * 8)}"
        )
    return folding, (1, *[2] * (count - 1))
