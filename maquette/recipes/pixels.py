"""Autoregressive models of pixels: exact likelihoods, one level at a time."""

from __future__ import annotations

import copy

from maquette.codecs.pixels import Levels
from maquette.conditioners.label import Labels
from maquette.data import open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.pixelcnn import PixelCNN
from maquette.objectives.likelihood import NextToken
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System


def pixelcnn(data: str = "digits", size: int = 0, depth: int = 6, dropout: float = 0.25, width: int = 48, lr: float = 6e-3, batch: int = 64, wd: float = 0.01, reach: int = 1) -> Experiment:
    opened = open_data(data, size)
    facts = opened.facts
    conditioner = Labels(facts.shares) if facts.classes else None
    net = PixelCNN(facts.shape, facts.levels, width=width, depth=depth, told=len(facts.classes), dropout=dropout, reach=reach)
    codec = Levels(facts.shape, facts.levels)
    system = System(
        {"main": net, "ema": copy.deepcopy(net)},
        NextToken(codec.bos),
        Autoregressive(),
        codec,
        conditioner,
        follow={"ema": ("main", 0.999)},
    )
    return Experiment(system, opened, Fit(steps=600, batch=batch, lr=lr, weight_decay=wd, bf16=True))
