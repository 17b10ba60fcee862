"""Captions and pictures as one sequence of symbols, written by one causal transformer: one recipe per published system."""

from __future__ import annotations

import math
from functools import partial

from maquette.conditioners.symbols import Symbols
from maquette.experiment import Experiment, Fit
from maquette.networks.heard import Prefix
from maquette.networks.presets import PLAIN_QK
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Attention
from maquette.nn.positions import Learned
from maquette.objectives.coding import Sharpened
from maquette.objectives.likelihood import NextCode
from maquette.recipes._idle import refuse_idle
from maquette.recipes.codecs import coder_from, critics_of, second_stage, symbols_of
from maquette.recipes.pictures import VOCAB, captioned, keeping
from maquette.samplers.autoregressive import Autoregressive

HEAD = 32  # channels of an attention's head
# after 60 training seconds on the default data, one CPU thread, the codec learning alongside, guidance 2; two runs, with a
# learned codebook of 512 in the place of the levels: .90 and .79 of grounds are right by then, and nothing else (chance .2)
DALLE = {"adherence, ground": (0.6, 1.0)}


def dalle(
    codec: str = "",
    data: str = "scenes",
    size: int = 0,
    depth: int = 4,
    patch: int = 4,
    levels: str = "8,8,8",
    words: int = 16,
    told: float = 0.125,
    dropout: float = 0.0,
    drop: float = 0.1,
    guidance: float = 2.0,
    delay: int = 300,
) -> Experiment:
    """DALL-E: a caption's symbols, then a picture's, one sequence of one causal transformer (Ramesh 2021, arXiv:2102.12092).

    Both are learned, the caption with an eighth of the loss; learned places by row and column; behind a caption's end each place
    has a filling symbol of its own. Samples may be ordered by a run of clip (`sample --best-of 16 --judge RUN`), as there, and a
    picture's end written from its beginning. Unlike there, the codec's symbols are points of a fixed grid (Mentzer 2023: their
    meaning stays while both learn), sharpened by a discriminator; all symbols see all before them; and captions are dropped at
    times, which makes guidance possible.

    Args:
        codec: a run of vqgan, vq_vae, rvq or fsq; without one, a codec is trained alongside, in this run.
        data: a built-in set of captioned images, or a folder of yours.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: blocks of the transformer; channels grow with it.
        patch: pixels to a side that a place stands for, a power of two, without a codec's run.
        levels: values that each channel of the codec takes, with commas between; their product is the number of symbols.
        words: symbols of a caption that are read.
        told: share of the loss that the caption has; 0 = it is read, and not learned.
        dropout: share of what each layer adds that is dropped in training; less suits more data.
        drop: chance that a training row is not told its caption; above 0 makes guidance possible.
        guidance: of samples, unless a dial says otherwise; 1 = off.
        delay: steps before the codec's discriminator joins in, without a codec's run.
    """
    if codec:
        refuse_idle("dalle", locals(), "patch levels delay", "with a codec's run")
    opened = keeping(captioned("dalle", data, size, depth))
    facts = opened.facts
    if words < 3:
        raise ValueError(f"words is {words}; a caption has at least 3 symbols: its beginning, one, its end")
    for name, share in (("told", told), ("dropout", dropout)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} is {share}; it must lie in 0 .. 1 (without 1)")
    if not math.isfinite(guidance):
        raise ValueError(f"guidance is {guidance}; it must be a finite number, 1 = off")
    coder = coder_from(codec, facts) if codec else symbols_of(facts, levels=levels, patch=patch)
    first = None if codec else Sharpened(0.25, delay=delay)
    assert coder.grid is not None
    net = Transformer(
        coder.bos + 1,
        HEAD * (depth + 1),
        depth,
        depth + 1,
        out=coder.bos,
        dropout=dropout,
        style=Style(attention=partial(Attention, norm=PLAIN_QK), positions=partial(Learned, count=(*coder.grid, coder.books))),
        prefix=Prefix(words, VOCAB, scored=told > 0),
    )
    prior, sampler = NextCode(coder.bos, drop, told), Autoregressive(guidance=guidance)
    critics = critics_of(facts, 1) if first else None
    system, rows = second_stage(opened, coder, net, prior, sampler, Symbols(words, VOCAB), first, critics)
    batch, lr = (16, 2e-3) if first else (64, 1e-2)  # a codec wants many steps, and embeddings a high rate
    return Experiment(system, rows, Fit(steps=6000, batch=batch, lr=lr, muon=0.02, bf16=True), DALLE)
