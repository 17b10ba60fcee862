"""The published families of causal language models, small: one transformer, one objective, one recipe, other switches."""

from __future__ import annotations

from dataclasses import replace

from maquette.experiment import Experiment
from maquette.networks import presets
from maquette.networks.style import Near
from maquette.recipes._causal import SIZE, causal, heads_of, tokenizer_of

# after 60 training seconds on the default data, one CPU thread; one run each, on a busy machine: gemma 1.89, qwen 1.82,
# grok 2.06, deepseek 2.07; gpt3 .71
EXPECTED = {"bits/byte": (1.4, 2.5)}
EXPECTED_SHOTS = {"accuracy gained from 1 to 23 shots": (0.5, 0.9)}


def gpt3(data: str = "tasks", depth: int = 2, vocab: int = 300, context: int = 80, window: int = 40) -> Experiment:
    """GPT-3, small: learns from examples in the text; every other layer sees a band only (Brown 2020, arXiv:2005.14165).

    On `tasks` each text shows one task by examples, and what is held out are tasks: accuracy at 0, 1, ... shots is what it
    is judged by. On other text it is a language model as gpt is. But for the bands its layers are gpt's, not its own: within
    1,500 steps those begin to use the examples with either seed, GPT-3's own with neither (benchmarks/shots.py).

    Args:
        data: texts that show tasks by examples, or any text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
        window: symbols that every other layer sees.
    """
    style = replace(presets.small(), near=Near(window, (False, True)))
    return causal("gpt3", data, depth, tokenizer_of("gpt3", "bpe", vocab, context), style, EXPECTED_SHOTS)


def gemma(data: str = "stdlib", depth: int = 4, vocab: int = 4096, context: int = 256, window: int = 64) -> Experiment:
    """Gemma 2, small: layers near and far in turns, capped scores, norms on both sides, GeGLU (Riviere 2024, arXiv:2408.00118).

    Args:
        data: a built-in corpus of text, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
        window: symbols that every other layer sees.
    """
    heads = heads_of(depth)
    style = presets.gemma(heads * SIZE, groups=_half(heads), window=window)
    return causal("gemma", data, depth, tokenizer_of("gemma", "bpe", vocab, context), style, EXPECTED)


def qwen(data: str = "stdlib", depth: int = 4, vocab: int = 4096, context: int = 256) -> Experiment:
    """Qwen 3, small: grouped heads, queries and keys normalised per head, one matrix in and out (Yang 2025, arXiv:2505.09388).

    Args:
        data: a built-in corpus of text, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
    """
    codec = tokenizer_of("qwen", "bpe", vocab, context)
    return causal("qwen", data, depth, codec, presets.qwen(_half(heads_of(depth))), EXPECTED)


def grok(data: str = "stdlib", depth: int = 4, vocab: int = 4096, context: int = 256, experts: int = 8) -> Experiment:
    """Grok-1, small: two of eight experts, norms on both sides, capped scores (xAI 2024, weights and code; no paper).

    Args:
        data: a built-in corpus of text, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the BPE, the one that ends a text included; 0 reads bytes.
        context: symbols seen at once.
        experts: of each layer, of which a symbol goes through two.
    """
    heads = heads_of(depth)
    style = presets.grok(_half(heads), hidden=heads * SIZE, experts=experts, width=heads * SIZE)
    return causal("grok", data, depth, tokenizer_of("grok", "bpe", vocab, context), style, EXPECTED, compile=False)


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
    width = heads_of(depth) * SIZE
    if not 0 <= ahead <= 1:
        raise ValueError(f"ahead is a weight of the loss, 0 .. 1, not {ahead}; nearest is {min(max(ahead, 0.0), 1.0)}")
    style = presets.deepseek(experts, top, width, kept=width // 2, query=width, ahead=int(ahead > 0))
    codec = tokenizer_of("deepseek", "bpe", vocab, context)
    return causal("deepseek", data, depth, codec, style, EXPECTED, ahead=ahead, compile=False)


def _half(heads: int) -> int:
    """Heads of keys and values: one for two of queries, where they divide."""
    return heads // 2 if heads % 2 == 0 else heads
