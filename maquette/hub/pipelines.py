"""A folder that diffusers' pipelines are saved to, model_index.json and a folder per part, as a system that samples alike.

Knows which parts each pipeline has, how it tells its network of a prompt, and its defaults; runs none of its code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from maquette.codecs.autoencoder import Autoencoder
from maquette.codecs.chain import Chain
from maquette.codecs.latents import KLLatents, VQLatents
from maquette.codecs.pixels import Pixels
from maquette.conditioners import prompt
from maquette.conditioners.label import Labels
from maquette.contracts import Codec, Conditioner
from maquette.data import Data, Facts
from maquette.data.core import Split
from maquette.data.tokens import Tokens
from maquette.experiment import Experiment, Fit
from maquette.hub import models, schedulers, weights
from maquette.networks.clip import Text
from maquette.networks.dit2d import DiT2D
from maquette.networks.mmdit import MMDiT
from maquette.networks.t5 import T5Encoder
from maquette.networks.unet2d import UNet2D
from maquette.objectives.denoising import Denoising
from maquette.recipes import UnknownName
from maquette.samplers.solvers import Solver
from maquette.system import System

INDEX = "model_index.json"
LEVELS = 256  # of grey in what pipelines make


@dataclass(frozen=True)
class Parts:
    """A pipeline's folder, and how its parts are wanted.

    Args:
        folder: the one with a model_index.json.
        index: what that says.
        size: height and width in pixels of what is made; None = as the pipeline has it where nobody says.
        dtype: of the weights; None = the files' own.
    """

    folder: Path
    index: Mapping[str, Any]
    size: tuple[int, int] | None = None
    dtype: torch.dtype | None = torch.float32

    def has(self, part: str) -> bool:
        """Whether the pipeline was saved with this part."""
        origin = self.index.get(part)
        return isinstance(origin, list) and len(origin) == 2 and origin[1] is not None

    def network(self, part: str) -> nn.Module:
        """A part that is a network.

        Raises:
            ValueError: the pipeline was saved without it.
        """
        if not self.has(part):
            raise ValueError(f"{self.folder / INDEX} has no {part}; {self.index['_class_name']} needs one here")
        return models.read(self.folder / part, str(self.index[part][1]), self.dtype)

    def says(self, part: str) -> dict[str, Any]:
        """A network's configuration."""
        return weights.config(self.folder / part)

    def clip(self, tokens: str, part: str) -> tuple[Tokens, Text]:
        """A CLIP's tokenizer and text encoder."""
        return Tokens.read(self.folder / tokens), cast(Text, self.network(part))

    def t5(self, tokens: str, part: str, length: int) -> tuple[Tokens, T5Encoder]:
        """A T5's tokenizer, for texts of so many symbols, and encoder."""
        return Tokens.read(self.folder / tokens, length), cast(T5Encoder, self.network(part))

    def latents(self, part: str = "vae") -> tuple[KLLatents | VQLatents, int]:
        """An autoencoder, and pixels to a side of a latent vector."""
        found = cast("KLLatents | VQLatents", self.network(part))
        return found, 2 ** (len(found.plan.block_out_channels) - 1)

    def shape(self, channels: int, usual: Any, factor: int = 1, multiple: int = 1) -> tuple[int, int, int]:
        """That of a code, of so many pixels to a side of each of its places.

        Args:
            usual: height and width in places, or one number for both, where no size is asked for.
            multiple: that the sides in places must divide by.

        Raises:
            ValueError: a size that does not divide, or none at all.
        """
        if self.size is None:
            if usual is None:
                raise ValueError(f"{self.folder} does not say how large its images are; give a size in pixels")
            high, wide = usual if isinstance(usual, list | tuple) else (usual, usual)
            return channels, high, wide
        by = factor * multiple
        for side in self.size:
            if side < by or side % by:
                near = max(by, round(side / by) * by)
                raise ValueError(f"size is {side}; a side here is a multiple of {by} pixels, nearest is {near}")
        return channels, self.size[0] // factor, self.size[1] // factor

    def solver(
        self, shape: tuple[int, ...], steps: int, guidance: float = 1.0, tokens: int = 0, own: bool = True, **said: Any
    ) -> Solver:
        """The pipeline's scheduler as a solver; `said` goes before what its configuration says."""
        config = weights.config(self.folder / "scheduler", "scheduler_config.json") | said
        return replace(schedulers.read(config, shape, steps, tokens, own), guidance=guidance)


def _meant(net: nn.Module, codec: Codec, told: Conditioner | None, solver: Solver) -> System:
    """The parts as a system in which the network alone learns."""
    frozen = (["codec"] if isinstance(codec, Chain) else []) + (["conditioner"] if isinstance(told, prompt.Prompt) else [])
    objective = Denoising(solver.process, 0.0 if told is None else 0.1)
    return System({"main": net}, objective, solver, codec, told, frozen=tuple(frozen))


def _chained(codec: Autoencoder) -> Chain:
    return Chain(Pixels(LEVELS), codec)


def _alike(part: str, reads: int, latent: int) -> None:
    """A network that reads other channels than the latents' is another pipeline's: inpainting, editing, upscaling."""
    if reads != latent:
        raise ValueError(
            f"in_channels of the {part} is {reads}, and latents have {latent} channels: a network that is shown more than "
            "latents (to inpaint, edit or upscale) is not opened by this pipeline"
        )


def _stable_diffusion(parts: Parts) -> System:
    """Stable Diffusion 1 and 2 (Rombach 2022)."""
    net, (codec, factor) = cast(UNet2D, parts.network("unet")), parts.latents()
    _alike("unet", net.plan.in_channels, codec.plan.latent_channels)
    shape = parts.shape(codec.plan.latent_channels, parts.says("unet").get("sample_size"), factor, _halves(net))
    told = prompt.stable_diffusion(*parts.clip("tokenizer", "text_encoder"))
    solver = parts.solver(shape, 50, 7.5, steps_offset=1, clip_sample=False)  # as the pipeline has it, whatever the file says
    return _meant(net, _chained(codec), told, solver)


def _stable_diffusion_xl(parts: Parts) -> System:
    """Stable Diffusion XL (Podell 2023)."""
    net, (codec, factor) = cast(UNet2D, parts.network("unet")), parts.latents()
    _alike("unet", net.plan.in_channels, codec.plan.latent_channels)
    shape = parts.shape(codec.plan.latent_channels, parts.says("unet").get("sample_size"), factor, _halves(net))
    high, wide = (factor * side for side in shape[1:])
    told = prompt.stable_diffusion_xl(
        parts.clip("tokenizer", "text_encoder"),
        parts.clip("tokenizer_2", "text_encoder_2"),
        sizes=(high, wide, 0, 0, high, wide),
        blank=bool(parts.index.get("force_zeros_for_empty_prompt", True)),
    )
    return _meant(net, _chained(codec), told, parts.solver(shape, 50, 5.0))


def _stable_diffusion_3(parts: Parts) -> System:
    """Stable Diffusion 3 (Esser 2024). Without its T5, the states in their place are zeros."""
    net, (codec, factor), length = cast(MMDiT, parts.network("transformer")), parts.latents(), 256
    _alike("transformer", net.plan.in_channels, codec.plan.latent_channels)
    by = net.plan.patch_size
    shape = parts.shape(codec.plan.latent_channels, net.plan.sample_size, factor, by)
    told = prompt.stable_diffusion_3(
        parts.clip("tokenizer", "text_encoder"),
        parts.clip("tokenizer_2", "text_encoder_2"),
        prompt.Reading(*parts.t5("tokenizer_3", "text_encoder_3", length))
        if parts.has("text_encoder_3")
        else prompt.Silence(length, net.plan.joint_attention_dim),
    )
    return _meant(net, _chained(codec), told, parts.solver(shape, 28, 7.0, tokens=(shape[1] // by) * (shape[2] // by)))


def _flux(parts: Parts) -> System:
    """Flux. One that was taught to guide itself is told 3.5, and `numbers` in a batch say otherwise."""
    net, (codec, factor) = cast(MMDiT, parts.network("transformer")), parts.latents()
    _alike("transformer", net.plan.in_channels, codec.plan.latent_channels)
    shape = parts.shape(codec.plan.latent_channels, 128, factor, 2)
    told = prompt.flux(
        parts.clip("tokenizer", "text_encoder"),
        parts.t5("tokenizer_2", "text_encoder_2", 512),
        3.5 if net.plan.guidance_embeds else None,
    )
    return _meant(net, _chained(codec), told, parts.solver(shape, 28, tokens=shape[1] * shape[2] // 4, own=False))


def _dit(parts: Parts) -> System:
    """DiT (Peebles 2023)."""
    net, (codec, factor) = cast(DiT2D, parts.network("transformer")), parts.latents()
    _alike("transformer", net.plan.in_channels, codec.plan.latent_channels)
    shape = parts.shape(codec.plan.latent_channels, net.plan.sample_size, factor, net.plan.patch_size)
    classes = net.plan.num_embeds_ada_norm
    return _meant(net, _chained(codec), Labels((1 / classes,) * classes), parts.solver(shape, 50, 4.0))


def _ddpm(parts: Parts) -> System:
    """DDPM (Ho 2020): pixels, and nothing is told."""
    net = _pixel_net(parts)
    return _meant(net, Pixels(LEVELS), None, parts.solver(_pixels(parts, net), 1000))


def _ddim(parts: Parts) -> System:
    """DDIM (Song 2021): pixels, and nothing is told."""
    net = _pixel_net(parts)
    return _meant(net, Pixels(LEVELS), None, parts.solver(_pixels(parts, net), 50, _class_name="DDIMScheduler"))


def _ldm(parts: Parts) -> System:
    """Unconditional latent diffusion (Rombach 2022): latents of a VQ autoencoder."""
    net, (codec, factor) = _pixel_net(parts), parts.latents("vqvae")
    shape = parts.shape(net.plan.in_channels, parts.says("unet").get("sample_size"), factor, _halves(net))
    return _meant(net, _chained(codec), None, parts.solver(shape, 50))


def _pixel_net(parts: Parts) -> UNet2D:
    net = cast(UNet2D, parts.network("unet"))
    if net.plan.num_class_embeds:
        raise ValueError(f"num_class_embeds is {net.plan.num_class_embeds}; {parts.index['_class_name']} tells no class")
    return net


def _pixels(parts: Parts, net: UNet2D) -> tuple[int, int, int]:
    return parts.shape(net.plan.in_channels, parts.says("unet").get("sample_size"), 1, _halves(net))


def _halves(net: UNet2D) -> int:
    return 2 ** (len(net.plan.block_out_channels) - 1)


@dataclass(frozen=True)
class Kind:
    """How a class of pipelines is opened, and which of a system's modules each of its folders holds."""

    build: Callable[[Parts], System]
    places: Mapping[str, str]


def _encoder(reading: int) -> str:
    return f"conditioner.readings.{reading}.encoder"


_UNET, _VAE = {"unet": "nets.main"}, {"vae": "codec.inner"}
_TWO = {"text_encoder": _encoder(0), "text_encoder_2": _encoder(1)}
KINDS: dict[str, Kind] = {
    "StableDiffusionPipeline": Kind(_stable_diffusion, _UNET | _VAE | {"text_encoder": _encoder(0)}),
    "StableDiffusionXLPipeline": Kind(_stable_diffusion_xl, _UNET | _VAE | _TWO),
    "StableDiffusion3Pipeline": Kind(
        _stable_diffusion_3, {"transformer": "nets.main", "text_encoder_3": _encoder(2)} | _VAE | _TWO
    ),
    "FluxPipeline": Kind(_flux, {"transformer": "nets.main", "text_encoder": _encoder(1), "text_encoder_2": _encoder(0)} | _VAE),
    "DiTPipeline": Kind(_dit, {"transformer": "nets.main"} | _VAE),
    "DDPMPipeline": Kind(_ddpm, _UNET),
    "DDIMPipeline": Kind(_ddim, _UNET),
    "LDMPipeline": Kind(_ldm, _UNET | {"vqvae": "codec.inner"}),
}


@dataclass(frozen=True)
class Published:
    """A published pipeline's folder, where else a run's stands: `record` says what it is under the names of a run.json."""

    path: Path
    record: dict[str, Any]


def published(folder: Path) -> Published:
    """What a pipeline's folder holds, from its configurations and the headers of its weights alone.

    Raises:
        UnknownName, FileNotFoundError, Unsafe, Damaged: as `read`.
    """
    index = index_of(folder)
    places = KINDS[index["_class_name"]].places
    parts = Parts(folder, index)
    sizes = {part: models.size_of(folder / part) for part in places if parts.has(part)}
    beside = {n: o[1] for n, o in index.items() if parts.has(n) and n not in places and not n.startswith("tokenizer")}
    scheduler = beside.pop("scheduler", None)
    record = {
        "recipe": index["_class_name"],
        "folder": str(folder),
        "parts": {part: index[part][1] for part in sizes},
        "parameters": sizes,
        "scheduler": scheduler,
        "not run here": sorted(beside),
        "data": {"field": "image"},
    }
    return Published(folder, record)


def index_of(folder: Path) -> dict[str, Any]:
    """What a pipeline's folder says of its parts.

    Raises:
        FileNotFoundError, Unsafe, Damaged: as `weights.config`.
        UnknownName: a pipeline that is not built here.
    """
    said = weights.config(folder, INDEX)
    name = said.get("_class_name")
    if name not in KINDS:
        raise UnknownName(f"pipeline in {folder / INDEX} (_class_name)", name, list(KINDS))
    return said


def read(folder: Path, size: tuple[int, int] | None = None, dtype: torch.dtype | None = torch.float32) -> Experiment:
    """A pipeline's folder as a system that samples as it does, and that learns like any other; its data is none.

    Weights are mapped, so the folder must stay. What filters or marks a pipeline's images afterwards is not run.

    Args:
        size: height and width in pixels of what is made; None = the pipeline's own.
        dtype: of all weights; None = the files' own.

    Raises:
        UnknownName: a pipeline, model or scheduler that is not built here.
        ValueError: a configuration that asks for what is not built, by name and value; a size that does not divide.
        FileNotFoundError, Unsafe, Damaged, Unfit: as `weights.fill`; every tensor that differs is named.
    """
    index = index_of(folder)
    kind, state = KINDS[index["_class_name"]], torch.get_rng_state()
    system = kind.build(Parts(folder, index, size, dtype))
    torch.set_rng_state(state)  # what modules drew before they were filled is nobody's
    system.eval()
    return Experiment(system, Data(_facts(folder, index, system), lambda: _no_rows(folder)), Fit(steps=1))


def _facts(folder: Path, index: Mapping[str, Any], system: System) -> Facts:
    told = system.conditioner
    shape = cast(Solver, system.sampler).shape
    if isinstance(system.codec, Chain):
        plan = cast("KLLatents | VQLatents", system.codec.inner).plan
        by = 2 ** (len(plan.block_out_channels) - 1)
        shape = (plan.out_channels, by * shape[1], by * shape[2])
    classes: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    if isinstance(told, Labels):
        names = index.get("id2label") or {}
        classes = tuple(str(names.get(str(i), i)) for i in range(told.width))
        shares = tuple(told.shares.tolist())
    return Facts(
        name=str(folder.resolve()), field="image", kind="own", licence="", attribution="", hash="", rows={}, shape=tuple(shape),
        levels=LEVELS, classes=classes, shares=shares, captions=isinstance(told, prompt.Prompt),
    )  # fmt: skip


def _no_rows(folder: Path) -> dict[str, Split]:
    raise ValueError(f"{folder} is a published pipeline, which comes without data; give data of your own to learn or judge by")
