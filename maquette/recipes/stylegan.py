"""Style-based generators: one recipe per published system."""

from __future__ import annotations

import copy

from maquette.codecs.pixels import Pixels
from maquette.conditioners.label import Labels
from maquette.data import open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.stylegan2 import Critic, Mapping, Synthesis
from maquette.nn.augment import Augment
from maquette.objectives.adversarial import Logistic
from maquette.objectives.styled import Styled
from maquette.samplers.styled import Style
from maquette.system import System

# after 600 training seconds on the default data, one CPU thread; three seeds: .968 to .977, .930 to .955, .703 to .735
EXPECTED = {"GAN-test": (0.93, 1.0), "GAN-train": (0.88, 1.0), "recall": (0.6, 1.0)}


def stylegan2(
    data: str = "font_digits",
    size: int = 0,
    depth: int = 1,
    latent: int = 64,
    gamma: float = 1.0,
    mixing: float = 0.9,
    path: float = 2.0,
    augment: float = 0.0,
    target: float = 0.0,
) -> Experiment:
    """StyleGAN2: styles from a mapping network, demodulated convolutions, told the label if any (Karras 2020, arXiv:1912.04958).

    Lazy R1 and path length regularisation, style mixing, noise per pixel, skip generator, residual discriminator.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: 64 channels per step of it at the lowest resolutions, fewer above.
        latent: numbers of noise.
        gamma: weight of the gradient penalty at real images; more steadies training.
        mixing: share of rows whose styles come from two noises.
        path: weight of path length regularisation; 0 = none.
        augment: share of images that each augmentation changes before the discriminator sees them; helps below 5,000 images.
        target: wanted mean of sign(D(real)), which the share then follows (Karras 2020b, ADA: 0.6); 0 = the share stays.
    """
    opened = open_data(data, size)
    facts = opened.facts
    if facts.field != "image":
        raise ValueError(f"stylegan2 models images, and data {data!r} holds {facts.field}")
    for name, value in (("depth", depth), ("latent", latent)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    conditioner = Labels(facts.shares) if facts.classes else None
    told = conditioner.width if conditioner else 0
    channels, height, across = facts.shape
    shape, width = (channels, height, across), 64 * depth
    mapping, synthesis = Mapping(latent, width, told), Synthesis(shape, width, width)
    nets = {"mapping": mapping, "synthesis": synthesis, "discriminator": Critic(shape, width, told)}
    followers = {"mapping_ema": copy.deepcopy(mapping), "synthesis_ema": copy.deepcopy(synthesis)}
    system = System(
        {**nets, **followers},
        Styled(Logistic(), gamma, mixing=mixing, path=path, augment=Augment(augment, target)),
        Style(),
        Pixels(facts.levels),
        conditioner,
        follow={"mapping_ema": ("mapping", 0.998), "synthesis_ema": ("synthesis", 0.998)},
    )
    fit = Fit(steps=6000, batch=32, lr=6e-3, betas=(0.0, 0.99), clip=0.0, decay=0.5, bf16=True)
    return Experiment(system, opened, fit, EXPECTED, within=600)
