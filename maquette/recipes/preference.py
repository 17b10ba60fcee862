"""Language models that answer as people like it, and judges of answers: one recipe per published way."""

from __future__ import annotations

import copy

from maquette.codecs.text import TURNS
from maquette.contracts import Network
from maquette.data import Data, open_data
from maquette.data.comparisons import compared
from maquette.experiment import Experiment, Fit
from maquette.networks.scorer import Scorer
from maquette.objectives.preference import Preference, Reward
from maquette.recipes._causal import small, tokenizer_of
from maquette.recipes._tuned import ground, rates, tuned
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

# by themselves, from scratch, after 120 and 60 training seconds on one CPU thread; two runs: .82 and .82, .70 and .65 (of dpo's
# steps the last prefer, behind the first 300); .84 and .86
DPO = {"preference accuracy": (0.65, 1.0), "win rate": (0.5, 1.0)}
REWARD = {"preference accuracy": (0.75, 1.0)}
FIRST = 300  # steps that a policy learns in before it prefers, without a run
LENGTH = 128


def dpo(
    run: str = "",
    data: str = "manners",
    loss: str = "dpo",
    beta: float = 0.1,
    rank: int = 8,
    alpha: float = 0.0,
    dora: bool = False,
    bits: int = 0,
    context: int = 0,
    depth: int = 4,
    vocab: int = 0,
) -> Experiment:
    """Direct preference optimisation: the better of two answers becomes likelier than it was (Rafailov 2023, arXiv:2305.18290).

    Against a reference, what the model was before, which it is dear to depart from. Without a run a small transformer learns
    both answers alike first, from nothing, and its reference is what it is by then.

    Args:
        run: a run of sft or another causal model of text, or a folder of transformers' models; it must stay there until training
            ends.
        data: rows with "prompt", "chosen" and "rejected": a .jsonl of yours, or built-in ones.
        loss: dpo; ipo (Azar 2023, arXiv:2310.12036), which does not go on where all is preferred already; kto (Ethayarajh 2024,
            arXiv:2402.01306), which takes each answer by itself, good or bad.
        beta: how dear it is to depart from the reference; larger = nearer to it.
        rank: of the adapter; 0 = no adapter, all weights learn.
        alpha: the adapter counts alpha / rank; 0 = as the rank.
        dora: the adapter learns the sizes of rows apart from their directions (Liu 2024, arXiv:2402.09353).
        bits: 16, 8 or 4: that the matrices lie in which the adapter stands on (Dettmers 2023, arXiv:2305.14314); 0 = as they are.
        context: symbols of a question and its answer; 0 = as many as the run reads, 128 without a run.
        depth: blocks, without a run.
        vocab: symbols of the BPE, without a run; 0 reads bytes.
    """
    rows = pairs("dpo", data)
    if not run:
        codec = tokenizer_of("dpo", "bpe", vocab, context or LENGTH, TURNS)
        policy = small(codec, depth)
        system = System(
            {"main": policy, "reference": copy.deepcopy(policy)},
            Preference(codec.bos, loss, beta, FIRST, pace=0.02),
            Autoregressive(),
            codec,
            follow={"reference": ("main", 0.5, FIRST)},
        )
        return Experiment(system, compared(rows, codec, codec.length), _fresh(), DPO, within=120)
    base = ground("dpo", run, context)
    net, before = tuned(base, rank, alpha, dora, bits)
    system = System(
        {"main": net, "reference": before},
        Preference(base.codec.bos, loss, beta),
        base.sampler,
        base.codec,
        frozen=("reference", "codec"),
    )
    return Experiment(system, compared(rows, base.codec, base.codec.length), rates(base, rank, 0.2), DPO)


def reward(
    run: str = "",
    data: str = "manners",
    rank: int = 8,
    alpha: float = 0.0,
    bits: int = 0,
    context: int = 0,
    depth: int = 4,
    vocab: int = 0,
) -> Experiment:
    """A reward model: a number for an answer, higher for the better of two (Ouyang 2022, arXiv:2203.02155, step 2).

    It judges what others write: `maquette sample RUN --chat ... --best-of 8 --judge THIS`. What is chosen by it is better by
    this judge than it is in truth, and the more so the more there was to choose from.

    Args:
        run: a run of sft or another causal model of text, which the judge begins as; "" = from nothing.
        data: rows with "prompt", "chosen" and "rejected": a .jsonl of yours, or built-in ones.
        rank: of the adapter; 0 = no adapter, all weights learn.
        alpha: the adapter counts alpha / rank; 0 = as the rank.
        bits: 16, 8 or 4: that the matrices lie in which the adapter stands on; 0 = as they are.
        context: symbols of a question and its answer; 0 = as many as the run reads, 128 without a run.
        depth: blocks, without a run.
        vocab: symbols of the BPE, without a run; 0 reads bytes.
    """
    rows = pairs("reward", data)
    if not run:
        codec = tokenizer_of("reward", "bpe", vocab, context or LENGTH, TURNS)
        reader = small(codec, depth)
        system = System({"main": Scorer(reader.width), "encoder": reader.headless()}, Reward(codec.bos), None, codec)
        return Experiment(system, compared(rows, codec, codec.length), _fresh(), REWARD)
    base = ground("reward", run, context)
    base.net.headless()
    net, before = tuned(base, rank, alpha, bits=bits)
    nets: dict[str, Network] = {"main": Scorer(base.net.width), "encoder": net, **({"base": before} if rank else {})}
    frozen = ("base", "codec") if rank else ("codec",)
    system = System(nets, Reward(base.codec.bos), None, base.codec, frozen=frozen)
    return Experiment(system, compared(rows, base.codec, base.codec.length), rates(base, rank), REWARD)


def pairs(recipe: str, data: str) -> Data:
    """Data whose rows compare two answers.

    Raises:
        ValueError: they do not.
    """
    opened = open_data(data)
    if not opened.facts.compares:
        raise ValueError(
            f"{recipe} learns from pairs of answers, and data {data!r} has none; it wants rows with 'prompt', 'chosen' and "
            "'rejected'; `manners` has them"
        )
    return opened


def _fresh() -> Fit:
    return Fit(steps=600, batch=16, lr=1e-2, betas=(0.9, 0.99), decay=0.3, muon=0.02, bf16=True)
