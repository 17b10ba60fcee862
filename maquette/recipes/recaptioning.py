"""Better captions (Betker 2023): a system that writes them, and one that draws pictures from what it wrote."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor

from maquette.codecs.text import BPE
from maquette.conditioners.picture import EXAMPLES, Picture
from maquette.data import Data, Facts
from maquette.data.core import check_alike, noted
from maquette.data.retold import graded, retold
from maquette.experiment import Experiment, Fit
from maquette.networks.heard import Prefix
from maquette.networks.presets import PLAIN_QK
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Attention
from maquette.objectives.likelihood import NextToken
from maquette.recipes._idle import refuse_idle
from maquette.recipes.pictures import MMDIT_FIT, captioned, coder_of, of_latents, reader_of, transformer_of
from maquette.runs import trained
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

HEAD = 32  # channels of an attention's head
PREFIX = 4  # tokens that a picture is told as
# after 120 training seconds on the default data, one CPU thread; one run: .999, .986 and .973 (and .32 of shapes, which the words
# before them mislead to pairs that it knows: of training rows that it knows tersely, .75)
CAPTIONER = {"caption, ground": (0.95, 1.0), "caption, size": (0.9, 1.0), "caption, colour": (0.9, 1.0)}
# by itself: no captioner, the codec alongside, 60 seconds; on a codec's run one run of 118 seconds gave .63 (a captioner's: 1.00)
RECAPTION = {"adherence, ground": (0.25, 1.0)}


def captioner(
    data: str = "scenes_terse",
    size: int = 0,
    depth: int = 2,
    words: int = 16,
    vocab: int = 512,
    share: float = 1.0,
) -> Experiment:
    """A captioner: a transformer that writes what a picture shows, symbol by symbol (Betker 2023, sec. 2.1).

    It learns from the terse captions that rows have, and to write full ones from the few that are: then it can rewrite all
    others, see recaption. The picture is told as tokens before the first symbol, by an encoder that learns here, where the
    paper's is CLIP's; which kind of caption it is, is told too, where the paper trains on the one kind after the other.

    Args:
        data: a built-in set of captioned images, or a folder of yours, where every caption is taken for a full one.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: blocks; channels grow with it, the encoder's too.
        words: symbols of a caption, its end included; a longer one is learned up to there.
        vocab: symbols of the BPE that is learned from the captions.
        share: of the full captions that are learned from, chosen by their pictures; 1 = all.
    """
    opened = captioned("captioner", data, size, depth)
    if words < 2:
        raise ValueError(f"words is {words}; a caption has at least 2 symbols: one, and its end")
    opened = noted(graded(opened, share), f"each checkpoint keeps {EXAMPLES} training pictures, which go where it goes")
    channels, high, wide = opened.facts.shape
    width, heads = 2 * HEAD * depth, 2 * depth
    codec = BPE(vocab, words)
    style = Style(attention=partial(Attention, norm=PLAIN_QK))
    net = Transformer(codec.vocab, width, depth, heads, told=1, style=style, prefix=Prefix(PREFIX))
    system = System(
        {"main": net},
        NextToken(codec.bos, whole=words),
        Autoregressive(temperature=0.5),
        codec,
        Picture((channels, high, wide), PREFIX, width, 16 * depth),
    )
    return Experiment(system, opened, Fit(steps=1200, batch=64, lr=3e-3, muon=0.02, bf16=True), CAPTIONER, 120)


def recaption(
    captioner: str = "",
    data: str = "scenes_terse",
    codec: str = "",
    size: int = 0,
    depth: int = 4,
    patch: int = 4,
    latent: int = 4,
    words: int = 16,
    drop: float = 0.1,
    guidance: float = 2.0,
    delay: int = 300,
    mix: float = 0.95,
) -> Experiment:
    """DALL-E 3's training: pictures from captions that a captioner rewrote, densely (Betker 2023, sec. 3).

    An MM-DiT as mmdit has it (the paper's own network is not published); what is told is better. A run of captioner writes a
    caption for every training picture once, greedily; of the rows, 95 in 100 keep it, the others what they had. Captions that
    samples are drawn for are left alone: the paper has a language model lengthen them too.

    Args:
        captioner: a run of captioner. Without one captions stay as they are: what rewriting them is to be compared with.
        data: a built-in set of captioned images, or a folder of yours.
        codec: a run of kl_codec; without one, its codec is trained alongside, in this run.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: blocks, a third of them of two streams; channels grow with it.
        patch: pixels to a side that a latent vector stands for, without a codec's run.
        latent: numbers in a latent vector, without a codec's run.
        words: symbols of a caption that are read.
        drop: chance that a training row is not told its caption; above 0 makes guidance possible.
        guidance: of samples, unless a dial says otherwise; 1 = off.
        delay: steps before the codec's discriminator joins in, without a codec's run.
        mix: share of the training rows whose captions are rewritten.
    """
    if codec:
        refuse_idle("recaption", locals(), "patch latent delay", "with a codec's run")
    opened = captioned("recaption", data, size, depth)
    if not 0 <= mix <= 1:
        raise ValueError(f"mix is {mix}; it is the share of captions that are rewritten, 0 .. 1 (all)")
    chain, shape, first = coder_of(codec, opened.facts, latent, patch, delay)
    beside = {"captioner": _writer(captioner, opened.facts)} if captioner else {}
    if captioner:
        opened = _rewritten(opened, beside["captioner"], mix, captioner)
    else:
        opened = noted(opened, "no run of captioner is named, so that no caption is rewritten: --captioner RUN names one")
    net = transformer_of(shape, depth)
    parts = of_latents(opened, chain, shape, first, net, reader_of(words), drop, guidance, beside)
    return Experiment(*parts, MMDIT_FIT, RECAPTION)


def _rewritten(data: Data, writer: System, mix: float, by: str) -> Data:
    """The data with a share of its training captions as `writer` finds them likeliest, symbol by symbol."""
    assert isinstance(writer.sampler, Autoregressive)
    greedy = replace(writer.sampler, temperature=0.0)

    def write(images: Tensor) -> list[str]:
        told = {"image": images.to(writer.device)}
        return list(writer.sample(len(images), about=told, sampler=greedy)["text"])

    return retold(data, write, mix, by)


def _writer(path: str, facts: Facts) -> System:
    """The system of a trained captioner.

    Raises:
        RunError: there is no such run.
        ValueError: it writes no captions, or was trained on pictures of another shape.
    """
    found, experiment = trained(path)
    system, was = experiment.system, experiment.data.facts
    reads = system.conditioner.fields if system.conditioner is not None else ()
    if system.codec.field != "text" or "image" not in reads or not isinstance(system.sampler, Autoregressive):
        raise ValueError(f"{path} is a run of {found.record['recipe']}, which writes no captions; captioner does")
    check_alike(f"captioner {path} was trained on", was, facts)
    return system
