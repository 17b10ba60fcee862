"""A published pipeline as a recipe: its network trained on, over your own data. Knows pipelines and data sets, no model."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from maquette.data import open_data
from maquette.experiment import Experiment, Fit
from maquette.hub.pipelines import read
from maquette.objectives.denoising import Denoising
from maquette.samplers.solvers import Solver


def finetune(pipeline: str = "", data: str = "scenes", size: int = 0, drop: float = 0.1) -> Experiment:
    """A published pipeline's network, trained on: told captions where the pipeline is, classes where it is.

    Args:
        pipeline: a folder of diffusers' pipelines; it must stay there.
        data: a built-in set of images, or a folder of yours.
        size: side in pixels that images are brought to; 0 = the pipeline's own.
        drop: chance that a training row is not told its caption or class, for guidance.
    """
    if not pipeline:
        raise ValueError("pipeline is empty; give the folder of a pipeline, with a model_index.json")
    folder = Path(pipeline).resolve()
    found = read(folder, (size, size) if size else None)
    system, wants = found.system, found.data.facts
    if wants.shape[1] != wants.shape[2]:
        raise ValueError(f"the pipeline makes images of {wants.shape[1]} x {wants.shape[2]}; give a size, for data are square")
    opened = open_data(data, wants.shape[1])
    has = opened.facts
    if has.field != "image" or has.shape[0] != wants.shape[0]:
        raise ValueError(f"data {data!r} holds {has.field}s of shape {has.shape}; {pipeline} makes images of shape {wants.shape}")
    if wants.captions and not has.captions:
        raise ValueError(f"{pipeline} is told captions, and data {data!r} has none; `scenes` has them")
    if wants.classes and not 0 < len(has.classes) <= len(wants.classes):
        raise ValueError(f"{pipeline} is told one of {len(wants.classes)} classes, and data {data!r} has {len(has.classes)}")
    if system.conditioner is not None:
        system.objective = Denoising(cast(Solver, system.sampler).process, drop)
    return Experiment(system, opened, Fit(steps=1000, batch=16, lr=1e-5, betas=(0.9, 0.999), weight_decay=0.01))
