"""Language models that look both ways: what is hidden is guessed from both sides."""

from __future__ import annotations

from functools import partial

from maquette.codecs.text import Text
from maquette.data.core import Data
from maquette.data.opening import open_data
from maquette.data.windows import coded
from maquette.experiment import Experiment
from maquette.networks import presets
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Attention
from maquette.objectives.denoising import Denoising
from maquette.processes.masked import Cloze, Masked
from maquette.recipes._causal import SIZE, from_nothing, heads_of, tokenizer_of
from maquette.samplers.unmask import Unmask
from maquette.system import System

BOTH_WAYS = Style(attention=partial(Attention, norm=presets.PLAIN_QK), smear=True)

# after 120 training seconds on the default data, one CPU thread; bert: one run, .198 after 106
EXPECTED = {"masked words": (0.12, 0.5)}
EXPECTED_DIFFUSION = {"bits/byte": (1.5, 3.0)}


def bert(
    data: str = "stdlib_prose", depth: int = 4, vocab: int = 4096, context: int = 128, asked: float = 0.15, dropout: float = 0.0
) -> Experiment:
    """BERT: guess 15 % of the symbols from both sides, some masked, some exchanged, some kept (Devlin 2018, arXiv:1810.04805).

    Written from by mask-predict (Ghazvininejad 2019). Layers are Llama's, not its own; there is no next-sentence loss, which
    was found to help nothing (Liu 2019, arXiv:1907.11692).

    Args:
        data: a built-in corpus of text, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
        asked: share of the symbols that are guessed.
        dropout: share of what each layer adds that is dropped in training.
    """
    opened, codec, network = _both_ways("bert", data, depth, vocab, context, dropout)
    sampler = Unmask(Masked(codec.vocab), steps=32, order="confidence")
    system = System({"main": network}, Denoising(Cloze(codec.vocab, asked), drop=0.0), sampler, codec)
    return Experiment(system, coded(opened, codec, context), from_nothing(context), EXPECTED, within=120)


def diffusion_lm(data: str = "stdlib", depth: int = 4, vocab: int = 4096, context: int = 128, dropout: float = 0.0) -> Experiment:
    """Masked diffusion of text: any share of the symbols is hidden, a bound on the likelihood is what is learnt (Sahoo 2024).

    Absorbing diffusion with the linear schedule, whose loss weighted by 1 / t is the bound (arXiv:2406.07524, eq. 8); written in
    any order, many symbols at a time.

    Args:
        data: a built-in corpus of text, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen, and written, at once.
        dropout: share of what each layer adds that is dropped in training.
    """
    opened, codec, network = _both_ways("diffusion_lm", data, depth, vocab, context, dropout)
    process = Masked(codec.vocab, "linear", draws=4)
    system = System({"main": network}, Denoising(process, drop=0.0), Unmask(process, steps=64), codec)
    return Experiment(system, coded(opened, codec, context), from_nothing(context), EXPECTED_DIFFUSION, within=120)


def _both_ways(name: str, data: str, depth: int, vocab: int, context: int, dropout: float) -> tuple[Data, Text, Transformer]:
    """Text, its symbols, and a transformer that sees them all, the mask among them."""
    opened = open_data(data)
    if opened.facts.field != "text":
        raise ValueError(f"{name} models text, and data {data!r} holds {opened.facts.field}")
    codec, heads = tokenizer_of(name, "bpe", vocab, context), heads_of(depth)
    network = Transformer(
        codec.vocab + 1, heads * SIZE, depth, heads, out=codec.vocab, causal=False, dropout=dropout, style=BOTH_WAYS
    )
    return opened, codec, network
