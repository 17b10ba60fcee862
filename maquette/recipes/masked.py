"""Masked models: a bidirectional transformer restores what is hidden, and samples are written many symbols at a time."""

from __future__ import annotations

import copy

from maquette.codecs.pixels import Levels
from maquette.conditioners.label import Labels
from maquette.data import open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.grid_transformer import GridTransformer
from maquette.objectives.denoising import Denoising
from maquette.processes.masked import Masked
from maquette.samplers.unmask import Unmask
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread
EXPECTED = {"FD-mlp128-64": (0.4, 1.5), "GAN-train": (0.88, 1.0)}


def maskgit(
    data: str = "digits", size: int = 0, depth: int = 4, dropout: float = 0.15, drop: float = 0.1, schedule: str = "cosine"
) -> Experiment:
    """MaskGIT on pixels: restore masked grey levels, sample by iterative decoding (Chang 2022, arXiv:2202.04200).

    The paper's tokens are codes of a trained VQGAN; here they are the grey levels themselves. Attention looks at patches,
    convolutions read them from pixels and write them back (as in U-ViT, Bao 2023, but with one level).

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: transformer blocks; channels grow with it.
        dropout: share of channels hidden in training; less suits more data.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
        schedule: how the masked share falls over the decoding steps: cosine or linear.
    """
    opened = open_data(data, size)
    facts = opened.facts
    if facts.field != "image":
        raise ValueError(f"maskgit models images, and data {data!r} holds {facts.field}")
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in 0 .. 1 (without 1), and 0.15 suits small data")
    channels, height, width = facts.shape
    process = Masked(facts.levels, schedule)
    conditioner = Labels(facts.shares) if facts.classes else None
    net = GridTransformer(
        (channels, height, width),
        facts.levels,
        width=32 * depth,
        depth=depth,
        patch=patch_of(height, width),
        told=conditioner.width if conditioner else 0,
        dropout=dropout,
    )
    system = System(
        {"main": net, "ema": copy.deepcopy(net)},
        Denoising(process, drop),
        Unmask(process, order="confidence", noise=20.0),  # less noise is surer and narrower: docs/LOG.md
        Levels((channels, height, width), facts.levels),
        conditioner,
        follow={"ema": ("main", 0.999)},
    )
    return Experiment(system, opened, Fit(steps=1200, batch=64, lr=4e-3, weight_decay=0.01, muon=0.02, bf16=True), EXPECTED)


def patch_of(height: int, width: int, most: int = 256) -> int:
    """The smallest patch of 2 pixels or more that divides both sides and leaves at most `most`; 1 where none divides."""
    sides = [p for p in range(2, height + 1) if height % p == width % p == 0]
    return next((p for p in sides if height * width <= most * p * p), sides[-1] if sides else 1)
