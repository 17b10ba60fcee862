"""Pictures from sentences in stages of pixels: a small picture first, then a larger one: one recipe per published system."""

from __future__ import annotations

import copy
from typing import Any

from maquette.codecs.captions import Captions
from maquette.codecs.pixels import CoarsePixels, Pixels
from maquette.conditioners.captions import EXAMPLES
from maquette.conditioners.degraded import Degraded
from maquette.conditioners.prompt import Prompt, Reading
from maquette.conditioners.several import Several
from maquette.conditioners.stage import Stage
from maquette.contracts import Codec, Network
from maquette.data import Data
from maquette.data.core import noted
from maquette.data.tokens import Tokens
from maquette.experiment import Experiment, Fit
from maquette.networks.folded import Folded
from maquette.networks.onto import Onto
from maquette.networks.plans2d import TextPlan
from maquette.networks.t5 import Filling, Plan, T5Encoder
from maquette.networks.unet2d import UNet2D
from maquette.nn.conv import zeroed
from maquette.nn.degrade import Coarse
from maquette.objectives.alongside import Alongside
from maquette.objectives.denoising import Denoising
from maquette.objectives.together import Together
from maquette.processes import flow as straight
from maquette.processes.masked import Masked
from maquette.recipes._idle import refuse_idle
from maquette.recipes.diffusion import shift_of
from maquette.recipes.pictures import TOKEN, VOCAB, captioned
from maquette.recipes.restoration import augmented
from maquette.runs import trained
from maquette.samplers.solvers import DPM, Solver
from maquette.samplers.unmask import Unmask
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread, the encoder still learning; chance .2
IMAGEN = {"adherence, ground": (0.3, 1.0)}
FIT = Fit(steps=6000, batch=64, lr=2e-3, muon=0.02, bf16=True)
WIDTH, SECOND = 128, 64  # channels at the lowest resolution of the first and the second stage's U-Nets, at depth 1
SEEN = 64  # places of a resolution, at most, at which a first stage attends; a second one does at a quarter of them


def imagen_base(
    data: str = "scenes",
    size: int = 16,
    depth: int = 1,
    words: int = 16,
    pretrain: int = 200,
    drop: float = 0.1,
    guidance: float = 3.0,
) -> Experiment:
    """Imagen's first stage: small pictures from sentences, by diffusion of pixels (Saharia 2022, arXiv:2205.11487).

    The sentence is read by an encoder of text that never learns from a picture: for its first steps it fills in what is masked in
    captions (Devlin 2018; the paper's is T5, trained on text), then it is frozen. A U-Net attends to what it reads. The path is
    straight; samples are guided, under dynamic thresholding (sec. 2.3).

    Args:
        data: a built-in set of captioned images, or a folder of yours.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: channels grow with it.
        words: symbols of a caption that are read.
        pretrain: steps over which the encoder of text learns, from captions alone.
        drop: chance that a training row is not told its caption; above 0 makes guidance possible.
        guidance: of samples, unless a dial says otherwise; 1 = off.
    """
    opened = captioned("imagen_base", data, size, depth)
    prompt, reading = _reader(words, pretrain)
    before = _first(opened.facts.shape, Pixels(opened.facts.levels), prompt, depth, drop, guidance)
    nets = {"main": before.nets["main"], "ema": before.nets["ema"]}
    objective = Together(reading, before.objective)
    system = System(nets, objective, before.sampler, before.codec, prompt, follow=before.follow)
    return Experiment(system, _said(opened), FIT, IMAGEN)


def imagen(
    data: str = "scenes",
    size: int = 0,
    base: str = "",
    depth: int = 1,
    factor: int = 2,
    words: int = 16,
    pretrain: int = 200,
    drop: float = 0.1,
    guidance: float = 3.0,
    augment: float = 0.1,
) -> Experiment:
    """Imagen: a frozen encoder of text, a small picture, then a large one, all in pixels (Saharia 2022, arXiv:2205.11487).

    Both stages are U-Nets that attend to the caption, each on a straight path; they estimate the picture, the second what it has
    beyond the small one, which it is told beside the noise: in training the row's own, dissolved to a random level that is told
    (noise conditioning augmentation, sec. 2.4); in samples what the first stage draws of the same words, or a picture to start
    from. What reads the caption never learns from a picture. Samples of both are under dynamic thresholding (sec. 2.3).

    Args:
        data: a built-in set of captioned images, or a folder of yours.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        base: a run of imagen_base, of pictures `factor` times smaller; without one, it is trained alongside, in this run.
        depth: the one dial: channels grow with it.
        factor: by which the sides of the first stage's pictures are smaller.
        words: symbols of a caption that are read, without a base's run.
        pretrain: steps over which the encoder of text learns, from captions alone, without a base's run.
        drop: chance that a training row is not told its caption; above 0 makes guidance possible.
        guidance: of the first stage's samples, without a base's run; 1 = off. The dial is the second's.
        augment: most that small pictures are dissolved in training, 0 .. 1; samples say how far with --about '{"noise": 0.1}'.
    """
    if base:
        refuse_idle("imagen", locals(), "words pretrain guidance", "with a base's run")
    opened = captioned("imagen", data, size, depth)
    shape, levels = opened.facts.shape, opened.facts.levels
    coarse = Coarse(shape, factor)
    parts: list[Alongside] = []
    if base:
        before, prompt = _stage_one(base, coarse)
        nets: dict[str, Any] = {"base": before.nets["main"]}
    else:
        prompt, reading = _reader(words, pretrain)
        before = _first(coarse.shape, CoarsePixels(coarse, levels), prompt, depth, drop, guidance)
        nets = {"base": before.nets["main"], "base_ema": before.nets["ema"]}
        parts = [reading, Alongside("base", before, {"main": "base"})]
    process = straight.clean(shift_of(shape))
    small = Degraded(coarse, process if augmented(augment) else None, augment, level=augment / 2)
    net = Onto(_unet(shape, SECOND * depth, SEEN // 4, small.channels, TOKEN + small.width))
    follow = {"ema": ("main", 0.9995), **({} if base else {"base_ema": ("base", 0.9995)})}
    system = System(
        {"main": net, "ema": copy.deepcopy(net), **nets},
        Together(*parts, Denoising(process, drop, roles=("main",))),
        DPM(process, shape, steps=10, quantile=0.99, most=4.0),
        Pixels(levels),
        Several(prompt, Stage(small, before)),
        frozen=("base", "conditioner") if base else (),
        follow=follow,
    )
    return Experiment(system, _said(opened), FIT, IMAGEN)


def _said(opened: Data) -> Data:
    """The data, and what checkpoints keep of them."""
    kept = f"each checkpoint keeps up to {EXAMPLES} training captions and small pictures, for samples nobody described"
    return noted(opened, kept + ": they go with it")


def _reader(words: int, pretrain: int) -> tuple[Prompt, Alongside]:
    """What reads captions, and how it learns to from captions alone, until it is frozen."""
    if words < 3:
        raise ValueError(f"words is {words}; a caption has at least 3 symbols: its beginning, one, its end")
    if pretrain < 1:
        raise ValueError(f"pretrain is {pretrain}; the encoder of text must learn for 1 step or more")
    plan = Plan(
        vocab_size=VOCAB + 1,  # the last is the mask
        d_model=TOKEN,
        d_kv=32,
        d_ff=2 * TOKEN,
        num_layers=2,
        num_heads=TOKEN // 32,
        feed_forward_proj="gated-gelu",
        relative_attention_max_distance=32,
        dropout_rate=0.0,  # else it would differ from step to step after it is frozen
    )
    encoder, tokens, process = T5Encoder(plan), Tokens(length=words), Masked(VOCAB, "linear")
    filling = System({"main": Filling(encoder)}, Denoising(process, 0.0), Unmask(process), Captions(tokens))
    reading = Reading(tokens, encoder, vocab=VOCAB, pooled=True)
    return Prompt([[reading]], [reading]), Alongside("text", filling, {"main": "conditioner"}, until=pretrain)


def _first(shape: tuple[int, ...], codec: Codec, prompt: Prompt, depth: int, drop: float, guidance: float) -> System:
    """The system of the first stage, which reads as the prompt does and does not teach it."""
    process = straight.clean(shift_of(shape))
    net = _unet(shape, WIDTH * depth, SEEN)
    return System(
        {"main": net, "ema": copy.deepcopy(net)},
        Denoising(process, drop, roles=("main",)),
        DPM(process, shape, steps=20, guidance=guidance, quantile=0.99, most=4.0),
        codec,
        prompt,
        follow={"ema": ("main", 0.9995)},
    )


def _unet(shape: tuple[int, ...], width: int, seen: int, field: int = 0, vector: int = TOKEN) -> Network:
    """A U-Net told captions: `width` channels at its lowest resolution, half as many at each above, attention at few places, and
    the mean of a caption's states with the time.

    Most of its weights are where that is cheap (Saharia 2022, sec. 2.4, "Efficient U-Net"). Pictures above 8 pixels have squares
    of 2 x 2 folded into channels.
    """
    channels, high, wide = shape
    folding = 2 if min(high, wide) > 8 and high % 2 == wide % 2 == 0 else 1
    sides = [(high // folding, wide // folding)]
    while min(sides[-1]) > 4 and sides[-1][0] % 2 == sides[-1][1] % 2 == 0:
        sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
    widths = [max(32, width >> i) for i in range(len(sides))][::-1]
    plan = TextPlan(
        in_channels=(channels + field) * folding**2,
        out_channels=channels * folding**2,
        block_out_channels=tuple(widths),
        attention=tuple(a * b <= seen for a, b in sides),
        attention_head_dim=tuple(width // 32 for width in widths),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=TOKEN,
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=vector,
    )
    net = UNet2D(plan)
    zeroed(net.conv_out)
    return Folded(net, folding)


def _stage_one(path: str, coarse: Coarse) -> tuple[System, Prompt]:
    """The first stage of a trained run, to sample from, and what reads its captions.

    Raises:
        RunError: there is no such run.
        ValueError: it is of another recipe, or makes pictures of another shape.
    """
    found, experiment = trained(path)
    system = experiment.system
    if (
        not isinstance(system.conditioner, Prompt)
        or not isinstance(system.sampler, Solver)
        or not isinstance(system.codec, Pixels)
    ):
        raise ValueError(f"{path} is a run of {found.record['recipe']}, which is no first stage; imagen_base is one")
    if system.sampler.shape != coarse.shape:
        was, wants = ("x".join(map(str, shape)) for shape in (system.sampler.shape, coarse.shape))
        raise ValueError(
            f"{path} makes pictures of {was}, and these data and this factor want {wants}: train it with --size {coarse.shape[1]}"
        )
    net = system.steady("main")
    process = system.sampler.process
    return System({"main": net}, Denoising(process), system.sampler, system.codec, system.conditioner), system.conditioner
