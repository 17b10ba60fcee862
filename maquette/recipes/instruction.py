"""Language models that answer: one recipe per published way of teaching them to."""

from __future__ import annotations

from maquette.codecs.text import TURNS
from maquette.data import Data, open_data
from maquette.data.conversations import conversed
from maquette.experiment import Experiment, Fit
from maquette.objectives.likelihood import NextToken
from maquette.recipes._causal import small, tokenizer_of
from maquette.recipes._idle import refuse_idle
from maquette.recipes._tuned import ground, rates, tuned
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

# by itself, from scratch, after 60 training seconds on one CPU thread; three runs: .63, .51, .59
SFT = {"exact match": (0.35, 1.0)}


def sft(
    run: str = "",
    data: str = "instructions",
    rank: int = 8,
    alpha: float = 0.0,
    dora: bool = False,
    bits: int = 0,
    context: int = 0,
    packed: bool = True,
    adapter: str = "",
    depth: int = 4,
    vocab: int = 0,
) -> Experiment:
    """Supervised fine-tuning: a language model learns to answer, from conversations (Ouyang 2022, arXiv:2203.02155, step 1).

    Only what the assistant says is learnt. Several conversations share a row, and none sees another. By default an adapter of
    low rank learns (Hu 2021), on the attention's projections. Without a run there is nothing to tune: a small transformer then
    learns to answer from nothing.

    Args:
        run: a run of gpt, qwen or another causal model of text, or a folder of transformers' models; it must stay there until
            training ends.
        data: rows with "messages", or with "prompt" and "completion": a .jsonl of yours, or built-in pairs of texts.
        rank: of the adapter; 0 = no adapter, all weights learn.
        alpha: the adapter counts alpha / rank; 0 = as the rank.
        dora: the adapter learns the sizes of rows apart from their directions (Liu 2024, arXiv:2402.09353).
        bits: 16, 8 or 4: that the matrices lie in which the adapter stands on (Dettmers 2023, arXiv:2305.14314), for little
            memory; 0 = they stay as they are.
        context: symbols of a row; 0 = as many as the run reads (of a published model at most 512), 128 without a run.
        packed: several conversations share a row.
        adapter: a folder of peft's with what changes the published model before it is tuned.
        depth: blocks, without a run.
        vocab: symbols of the BPE, without a run; 0 reads bytes.
    """
    refuse_idle("sft", locals(), "depth vocab" if run else "rank alpha dora bits adapter", f"with{'' if run else 'out'} a run")
    rows = talks("sft", data)
    if not run:
        codec = tokenizer_of("sft", "bpe", vocab, context or 128, TURNS)
        system = System({"main": small(codec, depth)}, NextToken(codec.bos), Autoregressive(temperature=0.3), codec)
        fit = Fit(steps=1200, batch=20, lr=1e-2, betas=(0.9, 0.99), decay=0.5, muon=0.02, bf16=True)
        return Experiment(system, conversed(rows, codec, codec.length, packed), fit, SFT)
    base = ground("sft", run, context, adapter)
    net, before = tuned(base, rank, alpha, dora, bits)
    tuning, frozen = ({"main": net, "base": before}, ("base", "codec")) if rank else ({"main": net}, ("codec",))
    system = System(tuning, NextToken(base.codec.bos), base.sampler, base.codec, frozen=frozen)
    return Experiment(system, conversed(rows, base.codec, base.codec.length, packed), rates(base, rank), SFT)


def talks(recipe: str, data: str) -> Data:
    """Data whose rows are conversations.

    Raises:
        ValueError: they are not.
    """
    opened = open_data(data)
    if opened.facts.field != "text" or not (opened.facts.sources or opened.facts.talks):
        raise ValueError(
            f"{recipe} learns from conversations, and data {data!r} has none; it wants rows with 'messages', or with 'prompt' "
            "and 'completion'; `instructions` has them"
        )
    return opened
