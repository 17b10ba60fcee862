"""Texts in one space, where what belongs together lies close: one recipe."""

from __future__ import annotations

from functools import partial

from maquette.codecs.text import BPE
from maquette.data.opening import open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.embedder import Embedder
from maquette.networks.transformer import Transformer
from maquette.objectives.contrastive import Contrastive, symbols
from maquette.recipes._causal import SIZE
from maquette.recipes._idle import refuse_idle
from maquette.recipes.classification import encoder_of
from maquette.recipes.masked_language import BOTH_WAYS
from maquette.system import System

# after 150 training seconds on the default data, one CPU thread; two runs, .577 and .576
EXPECTED = {"retrieval@10 of 1000, source to text": (0.42, 0.9)}


def embedder(
    data: str = "documented", run: str = "", depth: int = 2, vocab: int = 8192, context: int = 64, size: int = 128
) -> Experiment:
    """Sentence embeddings: texts and what they belong to, close in one space; the batch's others are apart (Reimers 2019).

    One encoder reads both sides of a pair, and the mean of its states is the vector; the loss is CLIP's, of texts (as Neelakantan
    2022, arXiv:2201.10005). It draws nothing: `maquette search` finds by it, `maquette embed` writes its vectors.

    Args:
        data: a built-in set of pairs, or JSONL rows with "source" and "text".
        run: a run of bert or diffusion_lm, whose network and symbols are taken over; "" = from nothing.
        depth: the one dial: blocks, without a run; width grows with it.
        vocab: symbols of the BPE, without a run.
        context: symbols of a text that are read, without a run.
        size: numbers of a vector.
    """
    if run:
        refuse_idle("embedder", locals(), "depth vocab context", "with a run")
    opened = open_data(data)
    if opened.facts.field != "text" or not opened.facts.sources:
        raise ValueError(f"embedder learns from pairs of texts, and data {data!r} has none; `documented` has them")
    if not 1 <= depth <= 48:
        raise ValueError(f"depth is 1 .. 48 blocks, not {depth}; nearest is {min(max(depth, 1), 48)}")
    if size < 2:
        raise ValueError(f"size is {size}; a vector has 2 numbers or more, nearest is 2")
    if run:
        encoder, codec = encoder_of(run)
    else:
        codec, heads = BPE(vocab, context), depth
        encoder = Transformer(vocab + 1, heads * SIZE, depth, heads, out=None, causal=False, style=BOTH_WAYS)
    objective = Contrastive({side: partial(symbols, field=side) for side in ("source", "text")})
    system = System({"main": Embedder(encoder, size)}, objective, None, codec, frozen=("codec",) if run else ())
    fit = Fit(steps=1000, batch=128, lr=1e-2, betas=(0.9, 0.99), warmup=0.05, decay=0.7, muon=0.02, bf16=True)
    return Experiment(system, opened, fit, EXPECTED, within=150)
