"""Image to image translation: one recipe per published system."""

from __future__ import annotations

import copy

from maquette.codecs.pixels import Pixels
from maquette.conditioners.source import Source
from maquette.contracts import Network, Objective, Sampler
from maquette.data import Data, open_data
from maquette.data.core import noted
from maquette.experiment import Experiment, Fit
from maquette.networks.patch_discriminator import PatchDiscriminator
from maquette.networks.translator import FinePatches, ResidualTranslator, SkipTranslator, layers_of
from maquette.objectives.translation import Cycle, Paired
from maquette.samplers.oneshot import OneShot, Translate
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread; two seeds: .0008 and .0007, .916 and .922, .835 and .844
PIX2PIX = {"FD-randconv": (0.0, 0.004), "precision": (0.8, 1.0), "recall": (0.7, 1.0)}
# after 150: FD 1.48 and 1.52, precision .91 and .90, recall .81 and .83; the SVM of benchmarks/gans.py reads .791 and .785
CYCLEGAN = {"FD-mlp128-64": (0.5, 4.0), "precision": (0.75, 1.0), "recall": (0.6, 1.0)}
KEPT = 64  # training sources in a checkpoint


def pix2pix(data: str = "serif_glyphs", size: int = 0, depth: int = 1, near: float = 100.0) -> Experiment:
    """pix2pix: pairs of images, a U-Net against a discriminator of patches (Isola 2017, arXiv:1611.07004).

    Args:
        data: image pairs: rows with an "image" and its own "source". Two sets with a colon between are no pairs: see cyclegan.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: 32 channels per step of it at the highest resolution, more below.
        near: weight of the L1 distance to the counterpart.
    """
    opened = _open("pix2pix", data, size, depth)
    channels, height, across = opened.facts.shape
    shape = (channels, height, across)
    layers = min(4, max(2, (min(height, across) - 1).bit_length() - 1))  # down to two places a side
    nets: dict[str, Network] = {
        "generator": SkipTranslator(shape, 32 * depth, layers),
        "discriminator": PatchDiscriminator(channels, 32 * depth, told=channels),
    }
    fit = Fit(steps=900, batch=32, lr=4e-3, betas=(0.5, 0.999), clip=0.0, decay=0.5, bf16=True)
    return _experiment(opened, nets, Paired(near), OneShot(), fit, PIX2PIX)


def cyclegan(
    data: str = "font_digits8:digits",
    size: int = 0,
    depth: int = 1,
    cycle: float = 2.0,
    identity: float = 0.3,
    history: int = 50,
    gamma: float = 0.003,
) -> Experiment:
    """CycleGAN: two kinds of images, no pairs; two translators, each undoing the other (Zhu 2017, arXiv:1703.10593).

    Args:
        data: two image sets with a colon between: from the first to the second.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: 32 channels per step of it.
        cycle: weight of the L1 distance to an image translated there and back; the paper's 10 is for images of 256 x 256.
        identity: weight of the L1 distance to an image that is of the wanted kind already; the paper's is 5.
        history: translated images kept to be shown to the discriminators again.
        gamma: weight of a gradient penalty at real images, which the paper does without.
    """
    opened = _open("cyclegan", data, size, depth)
    shape, width = opened.facts.shape, 32 * depth
    small = min(shape[1:]) < 16
    nets: dict[str, Network] = {}
    for role in ("generator", "back"):
        nets[role] = ResidualTranslator(shape[0], width, 3, layers_of(shape, 0 if small else 2))
    for role in ("discriminator", "discriminator_back"):
        nets[role] = FinePatches(shape[0], 2 * width) if small else PatchDiscriminator(shape[0], 2 * width)
    fit = Fit(steps=3000, batch=32, lr=2e-3, betas=(0.5, 0.999), clip=1.0, decay=0.5, bf16=True)
    return _experiment(opened, nets, Cycle(shape, cycle, identity, history, gamma), Translate(), fit, CYCLEGAN, within=150)


def _open(recipe: str, data: str, size: int, depth: int) -> Data:
    """Images with sources."""
    opened = open_data(data, size)
    if opened.facts.field != "image":
        raise ValueError(f"{recipe} translates images, and data {data!r} holds {opened.facts.field}")
    if not opened.facts.sources:
        raise ValueError(
            f"{recipe} needs images of two kinds, and data {data!r} has one; name two, as in font_digits8:digits, or serif_glyphs"
        )
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be 1 or more")
    kept = f"each checkpoint keeps {KEPT} training sources, for samples that nobody gave an image to: they go where it goes"
    return noted(opened, kept)


def _experiment(
    opened: Data,
    nets: dict[str, Network],
    objective: Objective,
    sampler: Sampler,
    fit: Fit,
    expected: dict[str, tuple[float, float]],
    within: int = 60,
) -> Experiment:
    """Translators with running averages to translate with."""
    translators = [role for role in ("generator", "back") if role in nets]
    averages = {f"{role}_ema": copy.deepcopy(nets[role]) for role in translators}
    facts = opened.facts
    system = System(
        {**nets, **averages},
        objective,
        sampler,
        Pixels(facts.levels),
        Source(facts.shape, KEPT),
        follow={f"{role}_ema": (role, 0.99) for role in translators},
    )
    return Experiment(system, opened, fit, expected, within=within)
