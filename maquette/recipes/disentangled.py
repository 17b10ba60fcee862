"""Autoencoders whose units are to stand for one factor of the data each: one recipe per published system."""

from __future__ import annotations

import copy

from maquette.codecs.autoencoder import KLCodec
from maquette.codecs.pixels import Pixels
from maquette.contracts import Network
from maquette.data import open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.perceptron import Perceptron
from maquette.networks.prior import StandardNormal
from maquette.networks.resnet import ResNetDecoder, ResNetEncoder
from maquette.nn.densities import grey
from maquette.objectives.reconstruction import Capacity, Reconstruction
from maquette.samplers.decode import Decode
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread
EXPECTED = {"MIG": (0.08, 0.4), "DCI disentanglement": (0.09, 0.4), "bits/dim": (0.05, 0.08)}


def beta_vae(
    data: str = "sprites",
    size: int = 0,
    depth: int = 1,
    latent: int = 10,
    beta: float = 4.0,
    capacity: float = 0.0,
    anneal: int = 1000,
) -> Experiment:
    """beta-VAE: a rate that costs more makes units stand for one factor each (Higgins 2017, openreview Sy2fzU9gl).

    Never told a label. Up to 32 x 32 x 1 numbers an image passes through perceptrons, as the paper's sprites do, above through
    residual convolutions.

    Args:
        data: a built-in image set, or a folder of images; disentanglement is measured where the factors are known (sprites).
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks; width grows with it.
        latent: units of the bottleneck.
        beta: weight of the rate in nats, or with a capacity of the rate's distance from it; 1 is a VAE.
        capacity: nats per image that the rate is held to, growing from 0 (Burgess 2018, arXiv:1804.03599); 0 = off.
        anneal: steps over which the capacity grows.
    """
    opened = open_data(data, size)
    facts = opened.facts
    if facts.field != "image":
        raise ValueError(f"beta_vae models images, and data {data!r} holds {facts.field}")
    for name, value in (("depth", depth), ("latent", latent)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    channels, height, across = facts.shape
    likelihood = grey(facts.levels)
    encoder, decoder = _bodies((channels, height, across), likelihood.width(channels), latent, depth)
    codec = KLCodec(encoder, decoder, likelihood)
    objective = Capacity(beta, capacity, anneal) if capacity else Reconstruction(beta)
    system = System(
        {"codec": codec, "prior": StandardNormal((latent,)), "ema": copy.deepcopy(codec)},
        objective,
        Decode(),
        Pixels(facts.levels),
        follow={"ema": ("codec", 0.998)},
    )
    return Experiment(system, opened, Fit(steps=2000, batch=256, lr=5e-3, bf16=True), EXPECTED)


def _bodies(shape: tuple[int, int, int], parameters: int, latent: int, depth: int) -> tuple[Network, Network]:
    """Encoder and decoder; the latter gives `parameters` of a likelihood per pixel."""
    outputs = (parameters, *shape[1:])
    if shape[0] * shape[1] * shape[2] <= 32 * 32:
        width = 128 * depth
        return Perceptron(shape, (2 * latent,), width, depth), Perceptron((latent,), outputs, width, depth)
    fold = 2 if max(shape[1:]) > 16 else 1
    return (
        ResNetEncoder(shape, 2 * latent, 64 * depth, depth, fold=2),
        ResNetDecoder(latent, outputs, 32 * depth, depth, fold=fold),
    )
