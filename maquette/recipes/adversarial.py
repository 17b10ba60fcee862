"""Generative adversarial networks: one recipe per published system."""

from __future__ import annotations

import copy

from maquette.codecs.pixels import Pixels
from maquette.codecs.points import continuous
from maquette.conditioners.label import Labels
from maquette.contracts import Network, Objective
from maquette.data import Data, open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.dcgan import ConvEncoder, DeconvDecoder
from maquette.networks.gan import Discriminator, Generator, ResidualMLP
from maquette.networks.perceptron import Perceptron
from maquette.networks.resnet import ResNetDecoder, ResNetEncoder
from maquette.nn.augment import Augment
from maquette.objectives.adversarial import Adversarial, Contest, Logistic, Relativistic
from maquette.objectives.wasserstein import Wasserstein
from maquette.recipes import UnknownName
from maquette.samplers.oneshot import OneShot
from maquette.system import System

LOSSES = ["relativistic", "logistic"]

# after 60 training seconds on the default data, one CPU thread
EXPECTED = {"FD-mlp128-64": (0.4, 1.5), "GAN-train": (0.945, 1.0), "NN distance": (0.92, 1.4)}
DCGAN = {"FD-mlp128-64": (0.4, 1.3), "GAN-train": (0.945, 1.0), "NN distance": (0.92, 1.4)}
WGAN_GP = {"FD-mlp128-64": (0.4, 1.8), "GAN-train": (0.945, 1.0), "NN distance": (0.92, 1.5)}


def gan(
    data: str = "digits",
    size: int = 0,
    depth: int = 2,
    latent: int = 32,
    loss: str = "relativistic",
    gamma: float = 1.0,
    augment: float = 0.0,
) -> Experiment:
    """Generative adversarial network of images, told the label where there is one (Goodfellow 2014, arXiv:1406.2661).

    Up to 16 x 16 x 1 numbers an image passes through residual perceptrons, above through residual convolutions.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks; width grows with it.
        latent: numbers of noise.
        loss: "relativistic" with penalties at real and fake images (Huang 2024, R3GAN), or "logistic" with one at real ones
            (Mescheder 2018).
        gamma: weight of the gradient penalties; more steadies training and copies less.
        augment: share of images that each augmentation changes before the discriminator sees them; helps below 5,000 images.
    """
    opened = open_data(data, size)
    facts = opened.facts
    codec = continuous(facts, "gan")
    if augment and facts.field != "image":
        raise ValueError(f"augment is {augment}; it changes images, and for {facts.field}s it must be 0")
    if loss not in LOSSES:
        raise UnknownName("loss", loss, LOSSES)
    for name, value in (("depth", depth), ("latent", latent)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    conditioner = Labels(facts.shares) if facts.classes else None
    told = conditioner.width if conditioner else 0
    wide = latent + (Generator.embedding if told else 0)
    paint, look, features = _bodies(facts.shape, wide, depth)
    generator = Generator(paint, facts.shape, latent, told)
    contest: Contest = Relativistic() if loss == "relativistic" else Logistic()
    system = System(
        {"generator": generator, "discriminator": Discriminator(look, features, told), "ema": copy.deepcopy(generator)},
        Adversarial(contest, r1=gamma, r2=gamma if loss == "relativistic" else 0.0, augment=Augment(augment)),
        OneShot(),
        codec,
        conditioner,
        follow={"ema": ("generator", 0.998)},
    )
    return Experiment(system, opened, Fit(steps=2000, batch=128, lr=1e-3, betas=(0.0, 0.99), clip=0.0), EXPECTED)


def _bodies(shape: tuple[int, ...], wide: int, depth: int) -> tuple[Network, Network, int]:
    """The generator's body, the discriminator's body, and how many features the latter gives."""
    width = 128 * depth
    if len(shape) == 1:  # points
        look = Perceptron(shape, (width,), width, depth, waves=(2.0, 4.0, 8.0, 16.0))
        return Perceptron((wide,), shape, width, depth, waves=(1.0, 2.0, 4.0)), look, width
    channels, height, across = shape
    pixels = channels * height * across
    if pixels <= 256:
        return ResidualMLP(wide, pixels, width, depth), ResidualMLP(pixels, width, width, depth), width
    width, features = 16 * depth, 64 * depth
    return (
        ResNetDecoder(wide, (channels, height, across), width, depth, norm=False, fold=2),
        ResNetEncoder((channels, height, across), features, width, depth, norm=False, fold=2),
        features,
    )


def dcgan(data: str = "digits", size: int = 0, depth: int = 1, latent: int = 64, augment: float = 0.0) -> Experiment:
    """DCGAN: strided convolutions and batch normalisation, told the label if any (Radford 2016, arXiv:1511.06434).

    The label is an extension: beside the noise in the generator, a projection in the discriminator.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: 32 channels per step of it at half the resolution, more below.
        latent: numbers of noise.
        augment: share of images that each augmentation changes before the discriminator sees them; helps below 5,000 images.
    """
    objective = Adversarial(Logistic(), r1=0.0, augment=Augment(augment))
    fit = Fit(steps=3000, batch=64, lr=1e-3, betas=(0.5, 0.999), clip=0.0)
    return _deconvolved("dcgan", open_data(data, size), depth, latent, True, objective, fit, DCGAN)


def wgan_gp(
    data: str = "digits", size: int = 0, depth: int = 1, latent: int = 64, penalty: float = 10.0, rounds: int = 5
) -> Experiment:
    """Wasserstein GAN with gradient penalty, told the label if any (Gulrajani 2017, arXiv:1704.00028).

    A step is one of the critic's; the generator moves at every `rounds`-th.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: 32 channels per step of it at half the resolution, more below.
        latent: numbers of noise.
        penalty: weight of the gradient penalty between real and generated images.
        rounds: moves of the critic for each of the generator.
    """
    fit = Fit(steps=6000, batch=64, lr=1e-3, betas=(0.0, 0.9), clip=0.0)
    return _deconvolved("wgan_gp", open_data(data, size), depth, latent, False, Wasserstein(penalty, rounds), fit, WGAN_GP)


def _deconvolved(
    recipe: str,
    opened: Data,
    depth: int,
    latent: int,
    norm: bool,
    objective: Objective,
    fit: Fit,
    expected: dict[str, tuple[float, float]],
) -> Experiment:
    """A deconvolving generator against a convolutional discriminator with batch normalisation or without."""
    facts = opened.facts
    if facts.field != "image":
        raise ValueError(f"{recipe} models images, and data {facts.name!r} holds {facts.field}")
    for name, value in (("depth", depth), ("latent", latent)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    channels, height, across = facts.shape
    conditioner = Labels(facts.shares) if facts.classes else None
    told = conditioner.width if conditioner else 0
    shape = (channels, height, across)
    wide = latent + (Generator.embedding if told else 0)
    generator = Generator(DeconvDecoder(wide, shape, 32 * depth), shape, latent, told)
    look = ConvEncoder(shape, 32 * depth, norm)
    nets = {"generator": generator, "discriminator": Discriminator(look, look.outputs, told), "ema": copy.deepcopy(generator)}
    follow = {"ema": ("generator", 0.998)}
    return Experiment(System(nets, objective, OneShot(), Pixels(facts.levels), conditioner, follow=follow), opened, fit, expected)
