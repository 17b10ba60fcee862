"""Diffusion and flow matching of images and of points: one recipe per published system."""

from __future__ import annotations

import copy
import math
from dataclasses import fields

from maquette.codecs.points import continuous
from maquette.conditioners.label import Labels
from maquette.contracts import Network
from maquette.data import Data, open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.dit import DiT
from maquette.networks.perceptron import Perceptron
from maquette.networks.unet import UNet
from maquette.objectives.denoising import Denoising
from maquette.processes import flow as straight
from maquette.processes.density import Density
from maquette.processes.gaussian import Balanced, Betas, Clean, Cosine, Gaussian, Noise, Reading, Schedule, Velocity
from maquette.processes.karras import karras
from maquette.recipes import UnknownName
from maquette.recipes.masked import patch_of
from maquette.samplers.solvers import DDIM, Ancestral, Churn, Heun, Solver
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread
FLOW = {"FD-mlp128-64": (0.4, 0.9), "GAN-train": (0.945, 1.0), "C2ST forest": (0.5, 0.75), "NN distance": (1.0, 1.4)}
DDPM = {"FD-mlp128-64": (0.4, 1.3), "GAN-train": (0.93, 1.0)}
IMPLICIT = {"FD-mlp128-64": (0.5, 1.4), "GAN-train": (0.93, 1.0)}
DIT = {"FD-mlp128-64": (0.4, 1.1), "GAN-train": (0.94, 1.0), "C2ST forest": (0.5, 0.8), "NN distance": (1.0, 1.5)}
EDM = {"FD-mlp128-64": (0.4, 1.0), "GAN-train": (0.945, 1.0), "C2ST forest": (0.5, 0.75), "NN distance": (1.0, 1.4)}
SPREAD = 0.75  # standard deviation of images in -1 .. 1, near enough


def flow(
    data: str = "digits", size: int = 0, depth: int = 1, dropout: float = 0.0, drop: float = 0.1, likelihood: bool = False
) -> Experiment:
    """Flow matching with a U-Net (a perceptron for points), told the label where there is one (Lipman 2023, arXiv:2210.02747).

    The straight path of rectified flow (Liu 2023) at logit-normal times (Esser 2024); sampled by Heun's method.
    The network's output is preconditioned (Karras 2022).

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        dropout: share of hidden activations dropped in training; above 0 suits small data and long runs.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
        likelihood: judge the run by its bits per dimension too, through the probability-flow ODE; slow.
    """
    opened = _numbers("flow", data, size)
    shift = shift_of(opened.facts.shape)
    process = straight.flow(shift, spread=1.3, reading=Balanced(SPREAD))
    process = _measured(process, opened) if likelihood else process
    return _experiment(opened, process, Heun(process, opened.facts.shape, steps=12), depth, dropout, drop, FLOW)


def edm(
    data: str = "digits", size: int = 0, depth: int = 1, dropout: float = 0.0, drop: float = 0.1, likelihood: bool = False
) -> Experiment:
    """EDM: a preconditioned denoiser, log-normal noise, Karras's grid and Heun's method (Karras 2022, arXiv:2206.00364).

    The stochastic sampler is a dial away: `--set churn=10`.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        dropout: share of hidden activations dropped in training; above 0 suits small data and long runs.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
        likelihood: judge the run by its bits per dimension too, through the probability-flow ODE; slow.
    """
    opened = _numbers("edm", data, size)
    process = karras(SPREAD, centre=-1.2 + math.log(SPREAD / 0.5))  # the paper's, whose images have a deviation of 0.5
    process = _measured(process, opened) if likelihood else process
    return _experiment(opened, process, Churn(process, opened.facts.shape, steps=18), depth, dropout, drop, EDM)


def ddpm(
    data: str = "digits",
    size: int = 0,
    depth: int = 1,
    dropout: float = 0.0,
    drop: float = 0.1,
    schedule: str = "linear",
    estimate: str = "eps",
    min_snr: float = 0.0,
) -> Experiment:
    """Denoising diffusion: a U-Net estimates the noise, samples are drawn ancestrally (Ho 2020, arXiv:2006.11239).

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        dropout: share of hidden activations dropped in training; above 0 suits small data and long runs.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
        schedule: linear, the paper's 1,000 betas; or cosine (Nichol & Dhariwal 2021).
        estimate: what the network estimates: eps, the noise; v, the velocity (Salimans & Ho 2022); or x, the image itself.
        min_snr: the loss weight of x's error is min(SNR, this) (Hang 2023: 5), whatever is estimated; 0 = the estimate's own.
    """
    opened = _numbers("ddpm", data, size)
    process = _chain("ddpm", schedule, estimate, min_snr)
    return _experiment(opened, process, Ancestral(process, opened.facts.shape, clip=1.0), depth, dropout, drop, DDPM)


def ddim(
    data: str = "digits",
    size: int = 0,
    depth: int = 1,
    dropout: float = 0.0,
    drop: float = 0.1,
    schedule: str = "linear",
    estimate: str = "eps",
    min_snr: float = 0.0,
) -> Experiment:
    """Implicit diffusion: trained as ddpm, drawn in few steps without fresh noise, invertible (Song 2021, arXiv:2010.02502).

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        dropout: share of hidden activations dropped in training; above 0 suits small data and long runs.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
        schedule: linear, 1,000 betas; or cosine (Nichol & Dhariwal 2021).
        estimate: what the network estimates: eps, the noise; v, the velocity (Salimans & Ho 2022); or x, the image itself.
        min_snr: the loss weight of x's error is min(SNR, this) (Hang 2023: 5), whatever is estimated; 0 = the estimate's own.
    """
    opened = _numbers("ddim", data, size)
    process = _chain("ddim", schedule, estimate, min_snr)
    return _experiment(opened, process, DDIM(process, opened.facts.shape, clip=1.0), depth, dropout, drop, IMPLICIT)


def dit(
    data: str = "digits", size: int = 0, depth: int = 4, patch: int = 0, dropout: float = 0.0, drop: float = 0.1
) -> Experiment:
    """DiT: flow matching with a transformer over patches, steered by adaLN-Zero (Peebles & Xie 2023, arXiv:2212.09748).

    The paper's network on the straight path (as SiT, Ma 2024) instead of the paper's eps and learned variance.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: transformer blocks; channels grow with it.
        patch: pixels to a side of a token; 0 = the smallest above 1 that leaves at most 64 tokens.
        dropout: share of what a block adds that is dropped in training; above 0 suits small data and long runs.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
    """
    opened = _images("dit", data, size)
    _check(depth, dropout)
    shape = opened.facts.shape
    if patch < 0:
        raise ValueError(f"patch is {patch}; it must be at least 1, and 0 chooses")
    net = DiT(shape, 32 * depth, depth, depth, patch or patch_of(shape[1], shape[2], most=64), len(opened.facts.classes), dropout)
    process = straight.flow(shift_of(shape), spread=1.3, reading=Balanced(SPREAD))
    fit = Fit(steps=3000, batch=64, lr=2e-3, muon=0.02, bf16=True)
    return _denoiser(opened, net, process, Heun(process, shape, steps=12), drop, fit, DIT)


def _chain(recipe: str, schedule: str, estimate: str, min_snr: float) -> Gaussian:
    """A variance-preserving process by the names of its parts."""
    schedules: dict[str, Schedule] = {"linear": Betas(), "cosine": Cosine()}
    readings: dict[str, Reading] = {"eps": Noise(), "v": Velocity(), "x": Clean()}
    if schedule not in schedules:
        raise UnknownName(f"schedule of {recipe}", schedule, list(schedules))
    if estimate not in readings:
        raise UnknownName(f"estimate of {recipe}", estimate, list(readings))
    if not 0 <= min_snr < math.inf:
        raise ValueError(f"min_snr is {min_snr}; it must be a number of at least 0; 0 = off, and 5 is the paper's")
    if min_snr:
        return Gaussian(schedules[schedule], readings[estimate], paid=Noise(), cap=min_snr)
    return Gaussian(schedules[schedule], readings[estimate])


def _measured(process: Gaussian, opened: Data) -> Density:
    """The same process, able to say what an image costs."""
    parts = {f.name: getattr(process, f.name) for f in fields(Gaussian)}
    return Density(**parts, values=opened.facts.levels if opened.facts.field == "image" else 0)


def shift_of(shape: tuple[int, ...]) -> float:
    """How much less noise an image this small can bear than one of 32 pixels."""
    return min(1.0, math.sqrt(min(shape[1:], default=32) / 32))


def _numbers(recipe: str, data: str, size: int) -> Data:
    """The data, which must be images or points."""
    opened = open_data(data, size)
    continuous(opened.facts, recipe)
    return opened


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
    """A U-Net (for points a perceptron, without dropout) under the process."""
    _check(depth, dropout)
    shape, told = opened.facts.shape, len(opened.facts.classes)
    net: Network
    if opened.facts.field == "point":
        net = Perceptron(shape, shape, 128 * depth, depth + 1, waves=(2.0, 5.0, 12.0), told=told, times=16)
    else:
        folding, mults = levels_of(shape)
        net = UNet(shape[0], 32 * depth, mults, depth, vector=told, dropout=dropout, folding=folding)
    return _denoiser(opened, net, process, sampler, drop, Fit(steps=3000, batch=64, lr=3e-3, muon=0.02, bf16=True), expected)


def _check(depth: int, dropout: float) -> None:
    """Dials of every network here."""
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in 0 .. 1 (without 1), and 0.1 suits small data")


def _denoiser(
    opened: Data,
    net: Network,
    process: Gaussian,
    sampler: Solver,
    drop: float,
    fit: Fit,
    expected: dict[str, tuple[float, float]],
) -> Experiment:
    """A network under the process, told the label where there is one, and its running average to sample from."""
    facts = opened.facts
    system = System(
        {"main": net, "ema": copy.deepcopy(net)},
        Denoising(process, drop),
        sampler,
        continuous(facts, "a denoiser"),
        Labels(facts.shares) if facts.classes else None,
        follow={"ema": ("main", 0.9999)},
    )
    return Experiment(system, opened, fit, expected)


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
