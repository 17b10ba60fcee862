"""Pictures from sentences: one recipe per published system."""

from __future__ import annotations

import copy
from dataclasses import replace

from maquette.codecs.autoencoder import LatentCodec
from maquette.codecs.chain import Chain
from maquette.conditioners.prompt import Prompt, Reading
from maquette.contracts import Codec
from maquette.data import Data, Facts, open_data
from maquette.data.cached import cached
from maquette.data.tokens import Tokens
from maquette.experiment import Experiment, Fit
from maquette.networks.clip import Text
from maquette.networks.clip_plans import TextPlan
from maquette.networks.unet import UNet
from maquette.objectives.coding import Sharpened
from maquette.objectives.denoising import Denoising
from maquette.objectives.together import Together
from maquette.processes import flow as straight
from maquette.processes.gaussian import Balanced
from maquette.recipes.codecs import critics_of, latents_of
from maquette.recipes.diffusion import levels_of
from maquette.runs import trained
from maquette.samplers.solvers import DPM
from maquette.system import System

VOCAB = 1024  # symbols of captions: bytes, those that end a word, merges


def latent_diffusion(
    codec: str = "",
    data: str = "scenes",
    size: int = 0,
    depth: int = 1,
    patch: int = 8,
    latent: int = 16,
    words: int = 16,
    drop: float = 0.1,
    guidance: float = 2.0,
) -> Experiment:
    """Latent diffusion: a U-Net that attends to a caption denoises a codec's latents (Rombach 2022, arXiv:2112.10752).

    Stable Diffusion's shape: a KL codec sharpened by a discriminator, a text encoder, cross-attention at every resolution,
    guidance away from the empty caption or a negative one. The path is straight, as in its third version (Esser 2024), and the
    text encoder learns here, with the U-Net.

    Args:
        codec: a run of kl_codec; without one, its codec is trained alongside, in this run.
        data: a built-in set of captioned images, or a folder of yours.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        patch: pixels to a side that a latent vector stands for, without a codec's run.
        latent: numbers in a latent vector, without a codec's run.
        words: symbols of a caption that are read.
        drop: chance that a training row is not told its caption; above 0 makes guidance possible.
        guidance: of samples, unless a dial says otherwise; 1 = off.
    """
    opened = _captioned("latent_diffusion", data, size, depth)
    facts = opened.facts
    coder, shape = _stage_one(codec, facts) if codec else latents_of(facts, latent, 1, patch)
    first = None if codec else Sharpened(1e-4, delay=60)
    width = 64 * (depth + 1)
    reader = _reader(width, words)
    folding, mults = levels_of(shape)
    net = UNet(shape[0], 64 * depth, mults, depth, vector=width, tokens=width, folding=folding)
    process = straight.flow(reading=Balanced(1.0))
    system = System(
        {"main": net, "ema": copy.deepcopy(net), **(critics_of(facts, 1) if first else {})},
        Together(first, Denoising(process, drop)) if first else Denoising(process, drop),
        DPM(process, shape, steps=20, guidance=guidance),
        coder,
        reader,
        frozen=() if first else ("codec",),
        follow={"ema": ("main", 0.9995)},
    )
    rows = opened if first else cached(opened, coder.field, lambda images: coder.encode(images.to(system.device)))
    return Experiment(system, rows, Fit(steps=6000, batch=64, lr=2e-3, bf16=True))


def _reader(width: int, words: int, depth: int = 2) -> Prompt:
    """A small text tower of CLIP's, which learns with whoever is told: states of every symbol, the vector at the text's end."""
    if words < 3:
        raise ValueError(f"words is {words}; a caption has at least 3 symbols: its beginning, one, its end")
    plan = TextPlan(width, 4 * width, None, depth, max(1, width // 32), vocab_size=VOCAB, max_position_embeddings=words)
    plan = replace(plan, eos_token_id=VOCAB - 1)
    reading = Reading(Tokens(length=words), Text(plan))
    return Prompt([[reading]], [reading])


def _captioned(recipe: str, data: str, size: int, depth: int) -> Data:
    """Images with captions."""
    opened = open_data(data, size)
    if opened.facts.field != "image" or not opened.facts.captions:
        held = f"{opened.facts.field}s without captions" if opened.facts.field == "image" else opened.facts.field
        raise ValueError(
            f"{recipe} needs images with captions, and data {data!r} holds {held}; `scenes` has them, and so has a folder with a "
            ".txt beside each image, or a metadata.jsonl whose rows say file_name and text"
        )
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be 1 or more")
    return opened


def _stage_one(path: str, facts: Facts) -> tuple[Codec, tuple[int, ...]]:
    """The codec of a trained run, with its weights.

    Raises:
        RunError: there is no such run.
        ValueError: its codec makes no latents, or was trained on images of another shape.
    """
    found, experiment = trained(path)
    codec, was = experiment.system.codec, experiment.data.facts
    if not isinstance(codec, Chain) or not isinstance(codec.inner, LatentCodec):
        raise ValueError(f"{path} is a run of {found.record['recipe']}, which has no codec of latents; kl_codec has one")
    if (was.shape, was.levels) != (facts.shape, facts.levels):
        old, new = (f"{'x'.join(map(str, f.shape))} images of {f.levels} levels" for f in (was, facts))
        raise ValueError(f"the codec of {path} was trained on {old} ({was.name}), and data {facts.name!r} has {new}")
    return codec, codec.inner.shape
