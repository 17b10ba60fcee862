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
from maquette.processes.gaussian import Balanced, Betas, Clean, Cosine, Gaussian, Noise, Reading, Schedule, Velocity
from maquette.processes.karras import karras
from maquette.recipes import UnknownName
from maquette.samplers.solvers import DDIM, Ancestral, Churn, Heun, Solver
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread
FLOW = {"FD-mlp128-64": (0.4, 0.9), "GAN-train": (0.945, 1.0), "C2ST forest": (0.5, 0.75), "NN distance": (1.0, 1.4)}
DDPM = {"FD-mlp128-64": (0.4, 1.3), "GAN-train": (0.93, 1.0)}

IMPLICIT = DDPM
EDM = {"FD-mlp128-64": (0.4, 1.3), "GAN-train": (0.93, 1.0)}
SPREAD = 0.75  # standard deviation of images in -1 .. 1, near enough


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
    shift = _shift(opened.facts.shape)
    process = straight.flow(shift, spread=1.3, reading=Balanced(SPREAD))
    return _experiment(opened, process, Heun(process, opened.facts.shape, steps=12), depth, dropout, drop, FLOW)


def edm(data: str = "digits", size: int = 0, depth: int = 1, dropout: float = 0.0, drop: float = 0.1) -> Experiment:
    """EDM: a preconditioned denoiser, log-normal noise, Karras's grid and Heun's method (Karras 2022, arXiv:2206.00364).

    The stochastic sampler is a dial away: `--set churn=10`.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        dropout: share of hidden activations dropped in training; above 0 suits small data and long runs.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
    """
    opened = _images("edm", data, size)
    # the paper's noise is for images of 32 pixels and more with a deviation of 0.5; smaller ones dissolve sooner
    process = karras(SPREAD, centre=-1.2 + math.log(SPREAD / 0.5 * _shift(opened.facts.shape)))
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
    opened = _images("ddpm", data, size)
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
    opened = _images("ddim", data, size)
    process = _chain("ddim", schedule, estimate, min_snr)
    return _experiment(opened, process, DDIM(process, opened.facts.shape, clip=1.0), depth, dropout, drop, IMPLICIT)


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


def _shift(shape: tuple[int, ...]) -> float:
    """How much less noise an image this small can bear than one of 32 pixels."""
    return min(1.0, math.sqrt(min(shape[1:]) / 32))


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
