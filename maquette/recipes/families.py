"""The published families of causal language models, small: one transformer, one objective, one recipe, other switches."""

from __future__ import annotations

from dataclasses import replace

from maquette.codecs.text import BPE, Bytes
from maquette.data.opening import open_data
from maquette.data.windows import coded
from maquette.experiment import Experiment, Fit
from maquette.networks import presets
from maquette.networks.transformer import Near, Style, Transformer
from maquette.objectives.likelihood import NextToken
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

SIZE = 64  # channels of an attention head

# after 60 training seconds on the default data, one CPU thread
EXPECTED = {"bits/byte": (1.0, 2.6)}
EXPECTED_SHOTS = {"accuracy gained from 1 to 23 shots": (0.5, 0.9)}


def gpt3(data: str = "tasks", depth: int = 2, vocab: int = 300, context: int = 80, window: int = 40) -> Experiment:
    """GPT-3, small: learns from examples in the text; every other layer sees a band only (Brown 2020, arXiv:2005.14165).

    On `tasks` each text shows one task by examples, and what is held out are tasks: accuracy at 0, 1, ... shots is what it
    is judged by. On other text it is a language model as gpt is. But for the bands its layers are gpt's, not its own: with
    learned positions and LayerNorm it does not begin to use the examples within 3,000 steps, with these within 200.

    Args:
        data: texts that show tasks by examples, or any text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
        window: symbols that every other layer sees.
    """
    style = replace(presets.small(), near=Near(window, (False, True)))
    return _causal("gpt3", data, depth, vocab, context, style, expected=EXPECTED_SHOTS)


def gemma(data: str = "stdlib", depth: int = 4, vocab: int = 4096, context: int = 256, window: int = 64) -> Experiment:
    """Gemma 2, small: layers near and far in turns, capped scores, norms on both sides, GeGLU (Riviere 2024, arXiv:2408.00118).

    Args:
        data: a built-in corpus of text, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
        window: symbols that every other layer sees.
    """
    heads = _heads(depth)
    style = presets.gemma(heads * SIZE, groups=_half(heads), window=window)
    return _causal("gemma", data, depth, vocab, context, style)


def qwen(data: str = "stdlib", depth: int = 4, vocab: int = 4096, context: int = 256) -> Experiment:
    """Qwen 3, small: grouped heads, queries and keys normalised per head, one matrix in and out (Yang 2025, arXiv:2505.09388).

    Args:
        data: a built-in corpus of text, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
    """
    return _causal("qwen", data, depth, vocab, context, presets.qwen(_half(_heads(depth))))


def grok(data: str = "stdlib", depth: int = 4, vocab: int = 4096, context: int = 256, experts: int = 8) -> Experiment:
    """Grok-1, small: two of eight experts, norms on both sides, capped scores (xAI 2024, weights and code; no paper).

    Args:
        data: a built-in corpus of text, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
        experts: of each layer, of which a symbol goes through two.
    """
    heads = _heads(depth)
    style = presets.grok(_half(heads), hidden=heads * SIZE, experts=experts, width=heads * SIZE)
    return _causal("grok", data, depth, vocab, context, style)


def deepseek(
    data: str = "stdlib",
    depth: int = 4,
    vocab: int = 4096,
    context: int = 256,
    experts: int = 8,
    top: int = 2,
    ahead: float = 0.3,
) -> Experiment:
    """DeepSeek-V3, small: latent attention, fine experts balanced without a loss, a guess further ahead (arXiv:2412.19437).

    Args:
        data: a built-in corpus of text, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
        experts: of each layer but the first, beside one that all symbols go through.
        top: experts that a symbol goes through.
        ahead: weight of the guess of the symbol after the next; 0 = it is not made.
    """
    width = _heads(depth) * SIZE
    if not 0 <= ahead <= 1:
        raise ValueError(f"ahead is a weight of the loss, 0 .. 1, not {ahead}; nearest is {min(max(ahead, 0.0), 1.0)}")
    style = presets.deepseek(experts, top, width, kept=width // 2, query=width, ahead=int(ahead > 0))
    return _causal("deepseek", data, depth, vocab, context, style, ahead)


def _heads(depth: int) -> int:
    """Attention heads that the one dial gives.

    Raises:
        ValueError: a depth that is none.
    """
    if not 1 <= depth <= 96:
        raise ValueError(f"depth is 1 .. 96 blocks, not {depth}; nearest is {min(max(depth, 1), 96)}")
    return (depth + 1) // 2


def _half(heads: int) -> int:
    """Heads of keys and values: one for two of queries, where they divide."""
    return heads // 2 if heads % 2 == 0 else heads


def _causal(
    name: str,
    data: str,
    depth: int,
    vocab: int,
    context: int,
    style: Style,
    ahead: float = 0.0,
    expected: dict[str, tuple[float, float]] = EXPECTED,
    within: int = 60,
) -> Experiment:
    """Text, its symbols, a transformer of a style, and how it learns: for every family the same."""
    opened, heads = open_data(data), _heads(depth)
    if not 1 <= context <= 1 << 20:
        raise ValueError(f"context is 1 .. {1 << 20} symbols, not {context}; nearest is {min(max(context, 1), 1 << 20)}")
    if opened.facts.field != "text":
        raise ValueError(f"{name} models text, and data {data!r} holds {opened.facts.field}")
    codec = BPE(vocab, context) if vocab else Bytes(context)
    network = Transformer(codec.vocab, heads * SIZE, depth, heads, style=style)
    whole = context if opened.facts.asks else 0
    objective = NextToken(codec.bos, whole=whole, ahead=ahead)
    system = System({"main": network}, objective, Autoregressive(temperature=0.8, top_p=0.95), codec)
    fit = Fit(
        steps=1200, batch=max(1, 2560 // context), lr=3e-2, betas=(0.9, 0.99), decay=0.5, muon=0.02, bf16=True, compile=True
    )
    return Experiment(system, opened if whole else coded(opened, codec, context), fit, expected, within)
