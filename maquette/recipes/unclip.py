"""Pictures from sentences by way of what a picture of them would show: DALL-E 2."""

from __future__ import annotations

import copy
from typing import cast

from maquette.codecs.enlarged import Enlarged
from maquette.codecs.pixels import Pixels
from maquette.codecs.vectors import Vectors
from maquette.conditioners.captions import EXAMPLES
from maquette.conditioners.comparing import Embedded, Spoken
from maquette.conditioners.degraded import Degraded
from maquette.conditioners.several import Apart, Several
from maquette.conditioners.stage import Stage
from maquette.contracts import Comparing, Network
from maquette.data import Facts
from maquette.data.cached import cached
from maquette.data.core import check_alike, noted
from maquette.experiment import Experiment, Fit
from maquette.networks.clip import CLIP
from maquette.networks.folded import Folded
from maquette.networks.onto import Onto
from maquette.networks.plans2d import TextPlan
from maquette.networks.prior_transformer import PriorPlan, PriorTransformer
from maquette.networks.unet import UNet
from maquette.networks.unet2d import UNet2D
from maquette.nn.conv import zeroed
from maquette.nn.degrade import Coarse
from maquette.objectives.alongside import Alongside
from maquette.objectives.denoising import Denoising
from maquette.objectives.together import Together
from maquette.processes import flow as straight
from maquette.processes.gaussian import Clean, Cosine, Gaussian
from maquette.recipes._idle import refuse_idle
from maquette.recipes.contrastive import comparing
from maquette.recipes.diffusion import levels_of, shift_of
from maquette.recipes.pictures import TOKEN, captioned, reader_of
from maquette.recipes.restoration import augmented
from maquette.runs import trained
from maquette.samplers.closest import Closest
from maquette.samplers.solvers import DPM
from maquette.system import System

# after 120 training seconds on the default data, one CPU thread, CLIP learning alongside; chance .2
UNCLIP = {"adherence, ground": (0.55, 1.0)}
HEAD = 32  # channels of an attention's head
DEAF = 0.5  # share of training rows whose caption the decoder is not told (sec. 2.1)
SELDOM = 3  # steps of the decoder for one of what makes its pictures large, which is learnt sooner
SHUT = 0.1  # of those whose caption the prior is not told (sec. 2.2)


def unclip(
    encoder: str = "",
    data: str = "scenes",
    size: int = 0,
    depth: int = 1,
    words: int = 16,
    drop: float = 0.1,
    guidance: float = 2.0,
    draws: int = 2,
    factor: int = 2,
    augment: float = 0.1,
    towers: int = 4,
) -> Experiment:
    """DALL-E 2: a prior draws what a picture of the caption shows, a decoder draws that picture (Ramesh 2022, arXiv:2204.06125).

    What a picture shows is its CLIP vector. The prior, a transformer that estimates the vector itself, the decoder, a U-Net of
    small pictures told of the vector and, half the time, of the caption, and a second U-Net, told of nothing but a small picture
    that it makes larger, learn in one run. Given a picture in place of a caption, the decoder draws variations of it. Unlike
    there, the U-Nets' paths are straight and both, too, estimate the picture (Li & He 2025), the second what it has beyond the
    small one; that is dissolved in training to a random level that is told (Ho 2021, arXiv:2106.15282), where theirs is blurred.

    Args:
        encoder: a run of clip; without one, its networks are trained alongside, in this run.
        data: a built-in set of captioned images, or a folder of yours.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: the decoder's channels grow with it, and the prior's blocks.
        words: symbols of a caption that the decoder reads.
        drop: chance that a training row is told no vector; above 0 makes guidance possible; at 0 none misses its caption.
        guidance: of samples, unless a dial says otherwise; 1 = off.
        draws: of the prior for each sample; the one closest to the caption's own vector is kept.
        factor: by which the sides of the pictures that the decoder draws are smaller.
        augment: most that small pictures are dissolved in training, 0 .. 1; those of samples are by half of it.
        towers: depth of CLIP, without a run of it.
    """
    if encoder:
        refuse_idle("unclip", locals(), "towers", "with an encoder's run")
    opened = captioned("unclip", data, size, depth)
    if towers < 1:
        raise ValueError(f"towers is {towers}; it must be 1 or more")
    compare = (
        _compared(encoder, opened.facts) if encoder else comparing(opened.facts, towers, min(4, *opened.facts.shape[1:]), words)
    )
    joint = cast(CLIP, compare.nets["main"]).plan
    coarse, inside = Coarse(opened.facts.shape, factor), joint.projection_dim
    foresight = _foresight(compare, inside, joint.text.max_position_embeddings, depth, draws)
    embedded = Embedded(compare, inside, width=TOKEN)
    process = straight.clean(shift_of(coarse.shape))  # as the prior: few channels cannot pass many pixels' noise on
    net, larger = _decoder(coarse.shape, inside, depth), _larger(coarse, opened.facts.levels, depth, augment)
    learnt = [] if encoder else [Alongside("clip", compare, {"main": "clip"})]
    system = System(
        {
            "main": net,
            "ema": copy.deepcopy(net),
            "larger": larger.nets["main"],
            "larger_ema": larger.nets["ema"],
            "prior": foresight.nets["main"],
            "prior_ema": foresight.nets["ema"],
            "clip": compare.nets["main"],
        },
        Together(
            *learnt,
            Alongside("prior", foresight, {"main": "prior"}, fill=embedded.fill),
            Alongside("larger", larger, {"main": "larger"}, every=SELDOM),
            Denoising(process, drop),
        ),
        DPM(process, coarse.shape, steps=20, guidance=guidance),
        Enlarged(coarse, larger, opened.facts.levels),
        Several(Apart(reader_of(words), DEAF), Stage(embedded, foresight)),
        frozen=("clip",) if encoder else (),
        follow={"ema": ("main", 0.9995), "prior_ema": ("prior", 0.9995), "larger_ema": ("larger", 0.9995)},
    )
    opened = noted(
        opened, f"each checkpoint keeps up to {EXAMPLES} training captions, for samples nobody described: they go with it"
    )
    rows = cached(opened, "image", lambda images: embedded.read(images.to(system.device)), "embedding") if encoder else opened
    return Experiment(system, rows, Fit(steps=3000, batch=64, lr=2e-3, muon=0.02, bf16=True), UNCLIP, 120)


def _compared(path: str, facts: Facts) -> System:
    """The system of a trained run that compares such pictures with captions.

    Raises:
        RunError: there is no such run.
        ValueError: it compares nothing, or pictures of another shape.
    """
    found, experiment = trained(path)
    system, was = experiment.system, experiment.data.facts
    if not isinstance(system.objective, Comparing) or not isinstance(system.nets["main"], CLIP):
        raise ValueError(f"{path} is a run of {found.record['recipe']}, which compares no pictures with captions; clip does")
    check_alike(f"{path} compares", was, facts)
    return system


def _foresight(compare: System, inside: int, words: int, depth: int, draws: int) -> System:
    """The prior: a diffusion of vectors whose network estimates the vector itself (sec. 2.2, eq. 2)."""
    net = PriorTransformer(PriorPlan(4, HEAD, depth + 1, inside, words))
    process = Gaussian(Cosine(), Clean())
    return System(
        {"main": net, "ema": copy.deepcopy(net)},
        Denoising(process, SHUT),
        Closest(DPM(process, (inside,), steps=16), draws),
        Vectors(),
        Spoken(compare),
        follow={"ema": ("main", 0.9995)},
    )


def _larger(coarse: Coarse, levels: int, depth: int, augment: float) -> System:
    """What makes small pictures large: a U-Net that hears of no caption, as nothing is won by that (sec. 2.1)."""
    shape = coarse.whole
    folding, mults = levels_of(shape)
    process = straight.clean(shift_of(shape))
    small = Degraded(coarse, process if augmented(augment) else None, augment, level=augment / 2)
    net = Onto(UNet(shape[0], 32 * depth, mults, 1, small.width, small.channels, folding=folding))
    return System(
        {"main": net, "ema": copy.deepcopy(net)},
        Denoising(process, drop=0.0),
        DPM(process, shape, steps=10),
        Pixels(levels),
        small,
        follow={"ema": ("main", 0.9995)},
    )


def _decoder(shape: tuple[int, ...], inside: int, depth: int) -> Network:
    """A U-Net told of vectors, the caption's and the picture's, beside the time, and of tokens that every resolution attends to.

    Squares of pixels are channels, so that at most 15 places lie along a side, where sides allow.
    """
    channels, *sides = shape
    by = next((by for by in (1, 2, 4, 8) if max(sides) // by < 16), 8)
    while sides[0] % by or sides[1] % by:
        by //= 2
    levels = 1 + (sides[0] // by % 2 == sides[1] // by % 2 == 0)
    plan = TextPlan(
        in_channels=channels * by**2,
        out_channels=channels * by**2,
        block_out_channels=(64 * depth, 128 * depth)[:levels],
        attention=(False, True)[2 - levels :],
        attention_head_dim=(2 * depth, 4 * depth)[:levels],
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=TOKEN,
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=TOKEN + inside,
    )
    net = UNet2D(plan)
    zeroed(net.conv_out)
    return Folded(net, by)
