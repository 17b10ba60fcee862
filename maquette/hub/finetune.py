"""What was published as a recipe: its network trained on, over your own data. Knows folders and data sets, no model."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from maquette.contracts import Network
from maquette.data import open_data
from maquette.data.windows import coded
from maquette.experiment import Experiment, Fit
from maquette.hub import language
from maquette.hub.pipelines import read
from maquette.networks.transformer import Transformer
from maquette.nn.lora import Adapted, matched
from maquette.objectives.denoising import Denoising
from maquette.samplers.solvers import Solver
from maquette.system import System

PROJECTIONS = tuple(f"attention.{name}" for name in ("qkv", "q", "q_down", "kv", "kv_down", "out"))


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


def finetune_text(model: str = "", data: str = "stdlib", context: int = 0, rank: int = 8, alpha: float = 0.0) -> Experiment:
    """A published causal language model, trained on: an adapter of low rank on its attention (Hu 2021), or all of its weights.

    Args:
        model: a folder of transformers' models; it must stay there.
        data: a built-in corpus of text, or a folder or file of yours.
        context: symbols seen at once; 0 = 512, or as many as the model reads.
        rank: of the adapter; 0 = no adapter, all weights learn.
        alpha: the adapter counts alpha / rank; 0 = as the rank.
    """
    if not model:
        raise ValueError("model is empty; give the folder of a published language model, with a config.json")
    if rank < 0:
        raise ValueError(f"rank is {rank}; it must be 0 or more, 0 = no adapter")
    if alpha and not rank:
        raise ValueError(f"alpha is {alpha}, and rank is 0: all weights would learn; give a rank above 0 for an adapter")
    folder = Path(model).resolve()
    system = language.read(folder, torch.float32).system
    net, codec = cast(Network, system.nets["main"]), system.codec
    if system.conditioner is not None or not isinstance(net, Transformer):
        raise ValueError(f"{model} is no causal model: one that fills in, or makes a text of another, is not trained on here")
    if not 0 <= context <= codec.length:
        raise ValueError(f"context is {context}; {model} reads 1 .. {codec.length} symbols, nearest is {codec.length}")
    opened = open_data(data)
    if opened.facts.field != "text":
        raise ValueError(f"{model} models text, and data {data!r} holds {opened.facts.field}s")
    rows = coded(opened, codec, context or min(512, codec.length))
    if not rank:
        return Experiment(system, rows, Fit(steps=1000, batch=8, lr=1e-5, betas=(0.9, 0.999), weight_decay=0.01))
    adapted = Adapted(net, matched(net, PROJECTIONS), rank, alpha)
    tuned = System({"main": adapted, "base": net}, system.objective, system.sampler, codec, frozen=("base",))
    return Experiment(tuned, rows, Fit(steps=1000, batch=8, lr=2e-4, betas=(0.9, 0.999)))
