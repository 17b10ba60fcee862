"""What recipes of language models share: a tokenizer by its name, one dial of size, and how a causal transformer learns text.

Knows no family; the folder's catalogue passes this file over.
"""

from __future__ import annotations

import torch

from maquette.codecs.text import BPE, Bytes, Pieces, Text, Unigram, WordPiece
from maquette.data.opening import open_data
from maquette.data.windows import coded
from maquette.experiment import Experiment, Fit
from maquette.networks import presets
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.objectives.likelihood import NextToken
from maquette.recipes import UnknownName
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

SIZE = 64  # channels of an attention head


def tokenizer_of(recipe: str, name: str, vocab: int, length: int, special: tuple[str, ...] = ()) -> Text:
    """A codec of text by its tokenizer's name; a vocabulary of 0 reads bytes, and so does "bytes" whatever the vocabulary.

    Raises:
        UnknownName: no such tokenizer.
    """
    pieces: dict[str, type[Pieces]] = {"bpe": BPE, "unigram": Unigram, "wordpiece": WordPiece}
    if name not in (*pieces, "bytes"):
        raise UnknownName(f"tokenizer of {recipe}", name, [*pieces, "bytes"])
    return pieces[name](vocab, length, special) if vocab and name in pieces else Bytes(length, special)


def heads_of(depth: int) -> int:
    """Attention heads that the one dial gives; each has SIZE channels of the width.

    Raises:
        ValueError: a depth that is none.
    """
    if not 1 <= depth <= 96:
        raise ValueError(f"depth is 1 .. 96 blocks, not {depth}; nearest is {min(max(depth, 1), 96)}")
    return (depth + 1) // 2


def small(codec: Text, depth: int) -> Transformer:
    """A causal transformer of these symbols with this house's own layers, from nothing."""
    heads = heads_of(depth)
    return Transformer(codec.vocab, heads * SIZE, depth, heads, style=presets.small())


def causal(
    name: str,
    data: str,
    depth: int,
    codec: Text,
    style: Style,
    expected: dict[str, tuple[float, float]],
    *,
    ahead: float = 0.0,
    dropout: float = 0.0,
    compile: bool = True,
) -> Experiment:
    """Text, its symbols, a transformer of a style, and how it learns: the same for every family.

    Texts that show tasks by examples are rows by themselves; all others are windows of one stream. Experts are not worth
    compiling: each cuts the graph in two, and compiling the pieces takes minutes.
    """
    opened, heads = open_data(data), heads_of(depth)
    if opened.facts.field != "text":
        raise ValueError(f"{name} models text, and data {data!r} holds {opened.facts.field}")
    network = Transformer(codec.vocab, heads * SIZE, depth, heads, dropout=dropout, style=style)
    whole = codec.length if opened.facts.asks else 0
    objective = NextToken(codec.bos, whole=whole, ahead=ahead)
    system = System({"main": network}, objective, Autoregressive(temperature=0.8, top_p=0.95), codec)
    rows = opened if whole else coded(opened, codec, codec.length)
    return Experiment(system, rows, from_nothing(codec.length, compile), expected)


def from_nothing(length: int, compile: bool = True) -> Fit:
    """How a transformer learns rows of so many symbols that has learnt nothing yet.

    Compiled on a GPU alone: on a CPU native rows are as quick, and a graph takes a minute before the first step.
    """
    return Fit(
        steps=1200,
        batch=max(1, 2560 // length),
        lr=3e-2,  # of embeddings and head; the hidden matrices are Muon's
        betas=(0.9, 0.99),
        warmup=0.02,
        decay=0.5,
        muon=0.02,
        bf16=True,
        compile=compile and torch.cuda.is_available(),
    )
