"""Diffusion and flow matching of images: one recipe per published system."""

from __future__ import annotations

import copy

from maquette.codecs.pixels import Pixels
from maquette.conditioners.label import Labels
from maquette.data.opening import open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.unet import UNet
from maquette.objectives.denoising import Denoising
from dataclasses import replace
from maquette.processes.flow import flow as straight, Drift
from maquette.processes.gaussian import Balanced
from maquette.samplers.solvers import Heun
from maquette.system import System


def flow(
    data: str = "digits", size: int = 0, width: int = 32, blocks: int = 2, dropout: float = 0.1, drop: float = 0.1, lr: float = 2e-3,
    batch: int = 128, mean: float = 0.0, spread: float = 1.0, steps: int = 20, decay: float = 0.9999, mult: int = 2, beta2: float = 0.99, fall: float = 1.0, wd: float = 0.0, read: str = 'x', cap: float = 400.0
) -> Experiment:
    """Flow."""
    opened = open_data(data, size)
    facts = opened.facts
    conditioner = Labels(facts.shares) if facts.classes else None
    net = UNet(facts.shape[0], width, (1, mult), blocks, vector=conditioner.width if conditioner else 0, dropout=dropout)
    process = straight(mean, spread, {'x': None, 'b': Balanced(0.75), 'v': Drift()}[read]); process = replace(process, cap=cap)
    system = System(
        {"main": net, "ema": copy.deepcopy(net)},
        Denoising(process, drop),
        Heun(process, facts.shape, steps),
        Pixels(facts.levels),
        conditioner,
        follow={"ema": ("main", decay)},
    )
    return Experiment(system, opened, Fit(batch=batch, lr=lr, betas=(0.9, beta2), bf16=True, decay=fall, weight_decay=wd))
