"""Language models: one recipe per published system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from maquette.codecs.text import BPE, Bytes, Pieces, Text, Unigram, WordPiece
from maquette.data.opening import open_data
from maquette.data.windows import coded
from maquette.experiment import Experiment, Fit
from maquette.networks import presets
from maquette.networks.transformer import Near, Style, Transformer
from maquette.objectives.likelihood import NextToken
from maquette.recipes import UnknownName
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

SIZE = 64  # channels of an attention head

# after 60 training seconds on the default data, one CPU thread
EXPECTED = {"bits/byte": (1.0, 2.0)}


def tokenizer_of(recipe: str, name: str, vocab: int, length: int, special: tuple[str, ...] = ()) -> Text:
    """A codec of text by its tokenizer's name; a vocabulary of 0 reads bytes, and so does "bytes" whatever the vocabulary.

    Raises:
        UnknownName: no such tokenizer.
    """
    pieces: dict[str, type[Pieces]] = {"bpe": BPE, "unigram": Unigram, "wordpiece": WordPiece}
    if name not in (*pieces, "bytes"):
        raise UnknownName(f"tokenizer of {recipe}", name, [*pieces, "bytes"])
    return pieces[name](vocab, length, special) if vocab and name in pieces else Bytes(length, special)


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
    """
    opened = open_data(data)
    if opened.facts.field != "text":
        raise ValueError(f"gpt models text, and data {data!r} holds {opened.facts.field}")
    if not 1 <= depth <= 96:
        raise ValueError(f"depth is 1 .. 96 blocks, not {depth}; nearest is {min(max(depth, 1), 96)}")
    codec = tokenizer_of("gpt", tokenizer, vocab, context)
    heads = (depth + 1) // 2
    network = Transformer(codec.vocab, heads * SIZE, depth, heads, dropout=dropout, style=style_of(family, heads, context))
    system = System({"main": network}, NextToken(codec.bos), Autoregressive(temperature=0.8, top_p=0.95), codec)
    fit = Fit(
        steps=1200,
        batch=max(1, 2560 // context),
        lr=3e-2,  # of embeddings and head; the hidden matrices are Muon's
        betas=(0.9, 0.99),
        warmup=0.02,
        decay=0.5,
        muon=0.02,
        bf16=True,
        compile=True,
    )
    return Experiment(system, coded(opened, codec, context), fit, EXPECTED)
