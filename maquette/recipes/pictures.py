"""Pictures from sentences: one recipe per published system."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from maquette.codecs.autoencoder import LatentCodec
from maquette.codecs.chain import Chain
from maquette.conditioners.captions import EXAMPLES
from maquette.conditioners.prompt import Prompt, Reading
from maquette.contracts import Network
from maquette.data import Data, Facts, open_data
from maquette.data.cached import cached
from maquette.data.core import check_alike, noted
from maquette.data.tokens import Tokens
from maquette.experiment import Experiment, Fit
from maquette.networks.clip import Text
from maquette.networks.clip_plans import TextPlan as WordsPlan
from maquette.networks.mmdit import MMDiT, Plan
from maquette.networks.plans2d import TextPlan
from maquette.networks.unet2d import UNet2D
from maquette.nn.conv import zeroed
from maquette.objectives.coding import Sharpened
from maquette.objectives.denoising import Denoising
from maquette.objectives.together import Together
from maquette.processes import flow as straight
from maquette.processes.gaussian import Balanced
from maquette.recipes._idle import refuse_idle
from maquette.recipes.codecs import critics_of, latents_of
from maquette.recipes.masked import patch_of
from maquette.runs import trained
from maquette.samplers.solvers import DPM
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread, the codec learning alongside; one run of each (mmdit's had two
# double blocks): .88 and .87 of grounds are right by then, and little else (chance .2). Ten minutes: benchmarks/pictures.py
PICTURES = {"adherence, ground": (0.6, 1.0)}
TOKEN = 128  # width of a caption's tokens
VOCAB = 1024  # symbols of captions: bytes, those that end a word, merges
MMDIT_FIT = Fit(steps=6000, batch=128, lr=2e-3, muon=0.02, bf16=True)


def latent_diffusion(
    codec: str = "",
    data: str = "scenes",
    size: int = 0,
    depth: int = 1,
    patch: int = 4,
    latent: int = 4,
    words: int = 16,
    drop: float = 0.1,
    guidance: float = 3.0,
    delay: int = 300,
) -> Experiment:
    """Latent diffusion: a U-Net that attends to a caption denoises a codec's latents (Rombach 2022, arXiv:2112.10752).

    Stable Diffusion's U-Net, made small: transformer blocks with cross-attention at every resolution, the caption's vector with
    the time, as in its XL version (Podell 2023); a KL codec sharpened by a discriminator; CLIP's text encoder, which learns here,
    with the U-Net; guidance away from the empty caption or a negative one. The path is straight, as in its third (Esser 2024).

    Args:
        codec: a run of kl_codec; without one, its codec is trained alongside, in this run.
        data: a built-in set of captioned images, or a folder of yours.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: channels grow with it.
        patch: pixels to a side that a latent vector stands for, without a codec's run.
        latent: numbers in a latent vector, without a codec's run.
        words: symbols of a caption that are read.
        drop: chance that a training row is not told its caption; above 0 makes guidance possible.
        guidance: of samples, unless a dial says otherwise; 1 = off.
        delay: steps before the codec's discriminator joins in, without a codec's run.
    """
    if codec:
        refuse_idle("latent_diffusion", locals(), "patch latent delay", "with a codec's run")
    opened = captioned("latent_diffusion", data, size, depth)
    chain, shape, first = coder_of(codec, opened.facts, latent, patch, delay)
    two = shape[1] % 2 == shape[2] % 2 == 0
    plan = TextPlan(
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=(64 * depth, 128 * depth)[: 1 + two],
        attention=(True, True)[: 1 + two],
        attention_head_dim=(2 * depth, 4 * depth)[: 1 + two],
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=TOKEN,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=TOKEN,
        use_linear_projection=True,
    )
    net = UNet2D(plan)
    zeroed(net.conv_out)
    parts = of_latents(opened, chain, shape, first, net, reader_of(words), drop, guidance)
    return Experiment(*parts, Fit(steps=6000, batch=64, lr=2e-3, muon=0.02, bf16=True), PICTURES)


def mmdit(
    codec: str = "",
    data: str = "scenes",
    size: int = 0,
    depth: int = 4,
    patch: int = 4,
    latent: int = 4,
    words: int = 16,
    drop: float = 0.1,
    guidance: float = 2.0,
    delay: int = 300,
) -> Experiment:
    """MM-DiT: caption and latents as two streams that attend as one, then as one stream (Esser 2024, arXiv:2403.03206).

    Flux's shape: double-stream blocks, then single-stream ones; rotary places by row and column; the caption's vector with the
    time. A straight path at logit-normal times. The text encoder learns here, with the transformer.

    Args:
        codec: a run of kl_codec; without one, its codec is trained alongside, in this run.
        data: a built-in set of captioned images, or a folder of yours.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: blocks, a third of them of two streams; channels grow with it.
        patch: pixels to a side that a latent vector stands for, without a codec's run.
        latent: numbers in a latent vector, without a codec's run.
        words: symbols of a caption that are read.
        drop: chance that a training row is not told its caption; above 0 makes guidance possible.
        guidance: of samples, unless a dial says otherwise; 1 = off.
        delay: steps before the codec's discriminator joins in, without a codec's run.
    """
    if codec:
        refuse_idle("mmdit", locals(), "patch latent delay", "with a codec's run")
    opened = captioned("mmdit", data, size, depth)
    chain, shape, first = coder_of(codec, opened.facts, latent, patch, delay)
    net = transformer_of(shape, depth)
    return Experiment(*of_latents(opened, chain, shape, first, net, reader_of(words), drop, guidance), MMDIT_FIT, PICTURES)


def transformer_of(shape: tuple[int, int, int], depth: int) -> MMDiT:
    """An MM-DiT of latents [C,h,w], by its one dial."""
    plan = Plan(
        in_channels=shape[0],
        out_channels=shape[0],
        patch_size=tokens_of(shape),
        num_layers=max(1, depth // 3),
        num_single_layers=max(1, depth - max(1, depth // 3)),
        num_attention_heads=max(1, depth),
        attention_head_dim=32,
        joint_attention_dim=TOKEN,
        pooled_projection_dim=TOKEN,
    )
    return MMDiT(plan)


def tokens_of(shape: tuple[int, int, int]) -> int:
    """Latents to a side of a token: as many as leave at most 16 tokens, where that is few, else 64."""
    high, wide = shape[1:]
    return 1 if high * wide <= 16 else patch_of(high, wide, most=16 if high * wide <= 64 else 64)


def coder_of(
    path: str, facts: Facts, latent: int, patch: int, delay: int
) -> tuple[Chain, tuple[int, int, int], Sharpened | None]:
    """A codec of latents, their shape, and how it learns where it is not trained already."""
    if path:
        return *_stage_one(path, facts), None
    return *latents_of(facts, latent, 1, patch), Sharpened(1e-4, delay=delay)


def of_latents(
    opened: Data,
    coder: Chain,
    shape: tuple[int, int, int],
    first: Sharpened | None,
    net: Network,
    reader: Prompt,
    drop: float,
    guidance: float,
    beside: Mapping[str, nn.Module] | None = None,
) -> tuple[System, Data]:
    """A network that denoises a codec's latents, told captions; and the rows it learns from.

    Args:
        first: how the codec learns in the same run; None = not.
        beside: further roles, which never learn.
    """
    opened = keeping(opened)
    process = straight.flow(reading=Balanced(1.0))
    system = System(
        {"main": net, "ema": copy.deepcopy(net), **(critics_of(opened.facts, 1) if first else {}), **(beside or {})},
        Together(first, Denoising(process, drop)) if first else Denoising(process, drop),
        DPM(process, shape, steps=20, guidance=guidance),
        coder,
        reader,
        frozen=(*(() if first else ("codec",)), *(beside or {})),
        follow={"ema": ("main", 0.9995)},
    )
    return system, opened if first else cached(opened, coder.field, lambda images: coder.encode(images.to(system.device)))


def reader_of(words: int) -> Prompt:
    """A small text tower of CLIP's, which learns with whoever is told: states of every symbol, the vector at the text's end."""
    if words < 3:
        raise ValueError(f"words is {words}; a caption has at least 3 symbols: its beginning, one, its end")
    plan = WordsPlan(TOKEN, 4 * TOKEN, None, 2, TOKEN // 32, vocab_size=VOCAB, max_position_embeddings=words)
    plan = replace(plan, eos_token_id=VOCAB - 1)
    reading = Reading(Tokens(length=words), Text(plan))
    return Prompt([[reading]], [reading])


def captioned(recipe: str, data: str, size: int, depth: int) -> Data:
    """Images with captions."""
    opened = open_data(data, size)
    if opened.facts.field != "image" or not opened.facts.captions:
        held = f"{opened.facts.field}s without captions" if opened.facts.field == "image" else opened.facts.field
        raise ValueError(
            f"{recipe} needs images with captions, and data {data!r} holds {held}; `scenes` and `characters` have them, as has a "
            "folder with a .txt beside each image, or a metadata.jsonl whose rows say file_name and text"
        )
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be 1 or more")
    return opened


def keeping(opened: Data) -> Data:
    """The same data, with a note of what runs keep of them."""
    return noted(
        opened, f"each checkpoint keeps up to {EXAMPLES} training captions, for samples nobody described: they go with it"
    )


def _stage_one(path: str, facts: Facts) -> tuple[Chain, tuple[int, int, int]]:
    """The codec of a trained run, with its weights.

    Raises:
        RunError: there is no such run.
        ValueError: its codec makes no latents, or was trained on images of another shape.
    """
    found, experiment = trained(path)
    codec, was = experiment.system.codec, experiment.data.facts
    if not isinstance(codec, Chain) or not isinstance(codec.inner, LatentCodec):
        raise ValueError(f"{path} is a run of {found.record['recipe']}, which has no codec of latents; kl_codec has one")
    check_alike(f"the codec of {path} was trained on", was, facts)
    return codec, codec.inner.shape
