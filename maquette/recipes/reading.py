"""Texts written of other texts: an encoder reads, a decoder writes."""

from __future__ import annotations

from functools import partial

from maquette.codecs.text import BPE
from maquette.conditioners.reader import Reader
from maquette.data.opening import open_data
from maquette.data.spans import SENTINELS
from maquette.experiment import Experiment, Fit
from maquette.networks import presets
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Attention, Cross
from maquette.nn.positions import Relative
from maquette.objectives.likelihood import NextToken
from maquette.recipes._causal import SIZE
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

# after 120 training seconds on the default data, one CPU thread
EXPECTED = {"ROUGE-L": (25.0, 70.0)}  # one run, 39.6 after 150


def t5(data: str = "chores", depth: int = 2, vocab: int = 4096, reads: int = 96, writes: int = 64) -> Experiment:
    """T5: every task is text to text, told by its first words; an encoder and a decoder (Raffel 2020, arXiv:1910.10683).

    Distances are scored, positions are not told; spans are hidden and written again among the other tasks. Unlike there,
    feed-forward layers are gated (as in T5 1.1), queries and keys normalised, and encoder and decoder embed symbols each for
    itself.

    Args:
        data: texts with sources: a built-in set, or JSONL rows with "source" and "text".
        depth: the one dial: blocks of the encoder, and as many of the decoder; width grows with it.
        vocab: symbols of the BPE that both share, the one that ends a text included.
        reads: symbols of a source that are read.
        writes: symbols that are written, the end included.
    """
    opened = open_data(data)
    if opened.facts.field != "text" or not opened.facts.sources:
        raise ValueError(f"t5 writes texts of others, and data {data!r} has no sources; `chores` has them")
    if not 1 <= depth <= 48:
        raise ValueError(f"depth is 1 .. 48 blocks, not {depth}; nearest is {min(max(depth, 1), 48)}")
    codec, heads = BPE(vocab, writes, SENTINELS), depth
    codec.spelt = True  # spans are hidden in the texts themselves
    width = heads * SIZE
    encoder = Transformer(codec.vocab, width, depth, heads, out=None, causal=False, style=_style(both=True))
    decoder = Transformer(codec.vocab, width, depth, heads, style=_style(both=False), cross=Cross)
    system = System(
        {"main": decoder},
        NextToken(codec.bos, whole=writes),
        Autoregressive(temperature=0.3),
        codec,
        Reader(encoder, codec, reads),
    )
    fit = Fit(steps=1200, batch=32, lr=1e-2, betas=(0.9, 0.99), decay=0.5, muon=0.02, bf16=True)
    return Experiment(system, opened, fit, EXPECTED, within=120)


def _style(both: bool) -> Style:
    return Style(attention=partial(Attention, norm=presets.PLAIN_QK), positions=partial(Relative, both=both))
