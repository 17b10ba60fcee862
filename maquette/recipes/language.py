"""Language models: one recipe per published system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from maquette.experiment import Experiment
from maquette.networks import presets
from maquette.networks.style import Near, Style
from maquette.recipes import UnknownName
from maquette.recipes._causal import SIZE, causal, heads_of, tokenizer_of

# after 60 training seconds on the default data, one CPU thread
EXPECTED = {"bits/byte": (1.0, 2.0)}


def style_of(family: str, heads: int, context: int) -> Style:
    """A family's switches, by name: small is this house's own, and the others are published, so that other libraries open them.

    Raises:
        UnknownName: no such family.
    """
    groups = heads // 2 if heads % 2 == 0 else heads
    styles: dict[str, Callable[[], Style]] = {
        "small": presets.small,
        "gpt2": lambda: presets.gpt2(context),
        "llama": lambda: presets.llama(groups),
        "mistral": lambda: replace(presets.llama(groups, theta=10000.0), near=Near(max(1, context // 4), (True,))),
        "qwen": lambda: presets.qwen(groups),
        "gemma": lambda: presets.gemma(heads * SIZE, groups, window=max(1, context // 4)),
    }
    if family not in styles:
        raise UnknownName("family of gpt", family, list(styles))
    return styles[family]()


def gpt(
    data: str = "stdlib",
    depth: int = 4,
    vocab: int = 4096,
    context: int = 256,
    dropout: float = 0.0,
    tokenizer: str = "bpe",
    family: str = "small",
    apart: bool = False,
) -> Experiment:
    """Causal transformer of text with byte-level BPE learned from the corpus (Radford 2019; Llama's layers, Touvron 2023).

    Args:
        data: a built-in corpus of text, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the tokenizer, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
        dropout: share of what each layer adds that is dropped in training; for many passes over a small corpus.
        tokenizer: how text becomes symbols: bpe, unigram, wordpiece (which loses white space), bytes.
        family: whose layers: small learns most from little; gpt2, llama, mistral, qwen, gemma are published ones, which
            `maquette export RUN OUT --to hf` writes for other libraries.
        apart: texts that share a window do not see each other (for many short ones).
    """
    codec = tokenizer_of("gpt", tokenizer, vocab, context)
    style = replace(style_of(family, heads_of(depth), context), apart=codec.bos if apart else None)
    return causal("gpt", data, depth, codec, style, EXPECTED, dropout=dropout)
