"""Autoencoders as generative systems: one recipe per published system."""

from __future__ import annotations

import copy

from maquette.codecs.autoencoder import KLCodec
from maquette.codecs.points import continuous
from maquette.conditioners.label import Labels
from maquette.contracts import Network
from maquette.data import Facts, open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.perceptron import Perceptron
from maquette.networks.prior import ConditionalNormal, StandardNormal
from maquette.networks.resnet import ResNetDecoder, ResNetEncoder
from maquette.nn.densities import Likelihood, Normal, grey
from maquette.objectives.reconstruction import Reconstruction
from maquette.samplers.decode import Decode
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread
EXPECTED = {"bits/dim given label": (1.6, 1.92), "bits/dim IWAE-100 given label": (1.6, 1.87), "FD-mlp128-64": (0.4, 1.25)}


def vae(
    data: str = "digits", size: int = 0, depth: int = 1, latent: int = 16, beta: float = 1.0, dropout: float = 0.2
) -> Experiment:
    """Variational autoencoder of images, told the label where there is one (Kingma & Welling 2014, arXiv:1312.6114).

    The label reaches the prior alone, a Gaussian per class; encoder and decoder never see it. The encoder folds 2x2 pixels
    into channels; the decoder does so above 16 pixels a side.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        latent: numbers in the bottleneck.
        beta: weight of the rate in the loss (Higgins 2017, beta-VAE); 1 trains the likelihood bound itself.
        dropout: share of hidden activations dropped in training; less suits more data.
    """
    opened = open_data(data, size)
    facts = opened.facts
    code = continuous(facts, "vae")
    for name, value in (("depth", depth), ("latent", latent)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    codec = KLCodec(*_halves(facts, latent, depth, dropout))
    conditioner = Labels(facts.shares) if facts.classes else None
    prior = ConditionalNormal(latent, conditioner.width) if conditioner else StandardNormal((latent,))
    system = System(
        {"codec": codec, "prior": prior, "ema": copy.deepcopy(codec), "prior_ema": copy.deepcopy(prior)},
        Reconstruction(beta),
        Decode(),
        code,
        conditioner,
        follow={"ema": ("codec", 0.998), "prior_ema": ("prior", 0.998)},
    )
    return Experiment(system, opened, Fit(steps=1000, batch=64, lr=6e-3, weight_decay=0.3, muon=0.02, bf16=True), EXPECTED)


def _halves(facts: Facts, latent: int, depth: int, dropout: float) -> tuple[Network, Network, Likelihood]:
    """Encoder, decoder and likelihood: convolutions and grey levels for images, perceptrons and Gaussians for points."""
    if facts.field == "point":
        (numbers,), gaussian = facts.shape, Normal()
        encoder = Perceptron(facts.shape, (2 * latent,), 128 * depth, depth, waves=(4.0, 8.0))
        return encoder, Perceptron((latent,), (gaussian.width(numbers),), 128 * depth, depth), gaussian
    channels, height, across = facts.shape
    likelihood, width, fold = grey(facts.levels), 32 * depth, 2 if max(height, across) > 16 else 1
    return (
        ResNetEncoder((channels, height, across), 2 * latent, 2 * width, depth, dropout, fold=2),
        ResNetDecoder(latent, (likelihood.width(channels), height, across), width, depth, dropout, fold=fold),
        likelihood,
    )
