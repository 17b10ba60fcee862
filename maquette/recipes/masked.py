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


def maskgit(data: str = "digits", size: int = 0, depth: int = 4, width: int = 128, dropout: float = 0.1, drop: float = 0.0, lr: float = 2e-3, batch: int = 128, wd: float = 0.01, patch: int = 2, muon: float = 0.0, compile: bool = False, schedule: str = "cosine") -> Experiment:
    opened = open_data(data, size)
    facts = opened.facts
    process = Masked(facts.levels, schedule)
    net = GridTransformer(facts.shape, facts.levels, width=width, depth=depth, patch=patch, told=len(facts.classes), dropout=dropout)
    system = System(
        {"main": net, "ema": copy.deepcopy(net)},
        Denoising(process, drop=drop),
        Unmask(process),
        Levels(facts.shape, facts.levels),
        Labels(facts.shares) if facts.classes else None,
        follow={"ema": ("main", 0.999)},
    )
    return Experiment(system, opened, Fit(steps=2000, batch=batch, lr=lr, weight_decay=wd, bf16=True, muon=muon, compile=compile))
