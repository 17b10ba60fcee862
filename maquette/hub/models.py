"""A folder of one published model, config.json and safetensors, as the network of this house that has its tensor names.

Knows which class of diffusers or transformers is which module here; no pipeline, no scheduler, no tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maquette.codecs.latents import KLLatents, VQLatents
from maquette.hub import weights
from maquette.networks import clip_plans, dit2d, mmdit, plans2d, t5
from maquette.networks.autoencoder2d import LatentPlan
from maquette.networks.clip import CLIP, Text, Vision
from maquette.networks.controlnet import ControlNet
from maquette.networks.t5 import T5Encoder
from maquette.networks.unet2d import UNet2D
from maquette.nn.channels_last import lay
from maquette.recipes import UnknownName

Said = Mapping[str, Any]
HARMLESS = ("*.position_ids", "position_ids", "logit_scale")  # what older files hold beside weights


def _dit(config: Said) -> nn.Module:
    plan = dit2d.Plan.of(config)
    return dit2d.DiT2D(plan, keep=plan.in_channels if plan.out_channels == 2 * plan.in_channels else None)


def _control(config: Said) -> nn.Module:
    widths = tuple(config.get("conditioning_embedding_out_channels", (16, 32, 96, 256)))
    return ControlNet(plans2d.TextPlan.of(config), config.get("conditioning_channels", 3), widths)


MODELS: dict[str, Callable[[Said], nn.Module]] = {
    "UNet2DModel": lambda config: UNet2D(plans2d.Plan.of(config)),
    "UNet2DConditionModel": lambda config: UNet2D(plans2d.TextPlan.of(config)),
    "ControlNetModel": _control,
    "AutoencoderKL": lambda config: KLLatents(LatentPlan.of(config)),
    "VQModel": lambda config: VQLatents(LatentPlan.of(config)),
    "SD3Transformer2DModel": lambda config: mmdit.MMDiT(mmdit.Plan.of(config)),
    "FluxTransformer2DModel": lambda config: mmdit.MMDiT(mmdit.Plan.of(config)),
    "DiTTransformer2DModel": _dit,
    "Transformer2DModel": _dit,
    "CLIPTextModel": lambda config: Text(clip_plans.TextPlan.of(config, projected=False)),
    "CLIPTextModelWithProjection": lambda config: Text(clip_plans.TextPlan.of(config, projected=True)),
    "CLIPVisionModel": lambda config: Vision(clip_plans.VisionPlan.of(config, projected=False)),
    "CLIPVisionModelWithProjection": lambda config: Vision(clip_plans.VisionPlan.of(config, projected=True)),
    "CLIPModel": lambda config: CLIP(clip_plans.Plan.of(config)),
    "T5EncoderModel": lambda config: T5Encoder(t5.Plan.of(config)),
}


def name_of(folder: Path) -> str:
    """The class of theirs whose weights a folder holds, as its config.json says.

    Raises:
        FileNotFoundError, Unsafe, Damaged: as `weights.config`.
        UnknownName: none that is built here.
    """
    said = weights.config(folder)
    name = said.get("_class_name") or next(iter(said.get("architectures") or ()), None)
    if name not in MODELS:
        raise UnknownName(f"model in {folder / 'config.json'} (_class_name or architectures)", name, list(MODELS))
    return str(name)


def read(folder: Path, name: str = "", dtype: torch.dtype | None = torch.float32) -> nn.Module:
    """The network of a folder, with its weights, to be evaluated.

    Args:
        name: the class of theirs; "" = as the folder says.
        dtype: of its weights; None = the files' own.

    Raises:
        UnknownName: a class that is not built here.
        ValueError: a configuration that asks for what is not built, by name and value.
        FileNotFoundError, Unsafe, Damaged, Unfit: as `weights.fill`.
    """
    name = name or name_of(folder)
    if name not in MODELS:
        raise UnknownName("class of a published model", name, list(MODELS))
    with weights.hollow():
        found = MODELS[name](weights.config(folder))
    weights.fill(found, folder, harmless=HARMLESS, dtype=dtype)
    lay(found)  # what was mapped lies as the file has it
    return found.eval()


def size_of(folder: Path) -> int:
    """Numbers in a folder's weights, by their headers.

    Raises:
        FileNotFoundError, Unsafe, Damaged: as `weights.find`.
    """
    return sum(math.prod(shape) for shapes in weights.find(folder).values() for shape in shapes.values())
