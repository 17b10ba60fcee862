"""Language models that answer as people like it, and judges of answers: one recipe per published way."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

from maquette.codecs.text import TURNS, Text
from maquette.contracts import Network, Objective
from maquette.data import Data, open_data
from maquette.data.comparisons import compared
from maquette.data.conversations import replies
from maquette.data.questions import contested
from maquette.experiment import Experiment, Fit
from maquette.networks.scorer import Scorer
from maquette.nn.lora import whole
from maquette.objectives.alongside import Alongside
from maquette.objectives.during import During
from maquette.objectives.preference import Judge, Preference, Reward, Shown
from maquette.objectives.proximal import Proximal
from maquette.objectives.reinforce import Reinforce
from maquette.objectives.together import Together
from maquette.recipes._causal import small, tokenizer_of
from maquette.recipes._idle import refuse_idle
from maquette.recipes._tuned import alike, ground, rates, tuned
from maquette.runs import trained
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

# by themselves, from scratch, one CPU thread, two runs: after 283 and 303 training seconds .82 and .85, .80 and .82; after a
# minute .84 and .86; after 249 and 207 of 300 planned .91 twice
DPO = {"preference accuracy": (0.65, 1.0), "win rate": (0.5, 1.0)}
REWARD = {"preference accuracy": (0.75, 1.0)}
PPO = {"win rate": (0.6, 1.0)}
GENTLE = 0.25  # share of the rate of what is learnt from shown answers
LENGTH = 128


def dpo(
    run: str = "",
    data: str = "manners",
    loss: str = "dpo",
    beta: float = 0.1,
    start: int = 300,
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
    both answers alike first, from nothing, and its reference is what it is by then. A run of it judges, too (`sample --judge`):
    what an answer is worth is a sum over its symbols (eq. 5), which finds a wrong step in a chain of right ones.

    Args:
        run: a run of sft or another causal model of text, or a folder of transformers' models; it must stay there until training
            ends.
        data: rows with "prompt", "chosen" and "rejected": a .jsonl of yours, or built-in ones.
        loss: dpo; ipo (Azar 2023, arXiv:2310.12036), which does not go on where all is preferred already; kto (Ethayarajh 2024,
            arXiv:2402.01306), which takes each answer by itself, good or bad.
        beta: how dear it is to depart from the reference; larger = nearer to it.
        start: steps that learn both answers alike, without a run; what prefers comes after them.
        rank: of the adapter; 0 = no adapter, all weights learn.
        alpha: the adapter counts alpha / rank; 0 = as the rank.
        dora: the adapter learns the sizes of rows apart from their directions (Liu 2024, arXiv:2402.09353).
        bits: 16, 8 or 4: that the matrices lie in which the adapter stands on (Dettmers 2023, arXiv:2305.14314); 0 = as they are.
        context: symbols of a question and its answer; 0 = as many as the run reads, 128 without a run.
        depth: blocks, without a run.
        vocab: symbols of the BPE, without a run; 0 reads bytes.
    """
    refuse_idle("dpo", locals(), "start depth vocab" if run else "rank alpha dora bits", f"with{'' if run else 'out'} a run")
    rows = pairs("dpo", data)
    if not run:
        if start < 1:
            raise ValueError(f"start is {start}; without a run there must be 1 step or more that learns to answer")
        codec = tokenizer_of("dpo", "bpe", vocab, context or LENGTH, TURNS)
        policy = small(codec, depth)
        prefer = During(Preference(codec.bos, loss, beta), since=start, pace=0.02)
        system = System(
            {"main": policy, "reference": copy.deepcopy(policy)},
            Together(During(Shown(codec.bos), until=start), prefer),
            Autoregressive(),
            codec,
            follow={"reference": ("main", 0.5, start)},
        )
        return Experiment(system, compared(rows, codec, codec.length), _fresh(), DPO, within=300)
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
    this judge than it is in truth, and the more so the more there was to choose from. It reads an answer at its last symbol: to
    tell right answers from wrong ones a run of dpo learns sooner.

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
    refuse_idle("reward", locals(), "depth vocab" if run else "rank alpha bits", f"with{'' if run else 'out'} a run")
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


def ppo(
    run: str = "",
    judge: str = "",
    data: str = "manners",
    critic: bool = True,
    group: int = 4,
    beta: float = 0.1,
    epochs: int = 4,
    clip: float = 0.2,
    start: int = 300,
    rank: int = 8,
    context: int = 0,
    depth: int = 4,
    vocab: int = 0,
) -> Experiment:
    """Proximal policy optimisation: answers of the model's own, drawn, judged and learnt from (Ouyang 2022, arXiv:2203.02155).

    A reward model judges each whole answer, every symbol costs its divergence from what the model was, and a critic, which begins
    as the judge, says at each symbol what the rest will bring (step 3 there). Without a judge one is learnt first, from the
    pairs; without a run a small transformer learns both answers alike meanwhile, from nothing.

    Args:
        run: a run of sft or another causal model of text, or a folder of transformers' models; it must stay there until training
            ends.
        judge: a run of reward that reads the same symbols as the run.
        data: rows with "prompt", "chosen" and "rejected": a .jsonl of yours, or built-in ones.
        critic: whether there is one; without, the mean of a question's answers stands in its place (GRPO; Shao 2024,
            arXiv:2402.03300).
        group: answers drawn to each question.
        beta: what a nat of divergence costs; larger = nearer to what the model was.
        epochs: moves that learn from what a step drew.
        clip: how far a symbol's chance may move between two draws and still count, as a share of what it was.
        start: steps before, that learn to judge, and without a run to answer; with run and judge there are none.
        rank: of the adapter; 0 = no adapter, all weights learn.
        context: symbols of a question and its answer; 0 = as many as the run reads, 128 without a run.
        depth: blocks, without a run.
        vocab: symbols of the BPE, without a run; 0 reads bytes.
    """
    refuse_idle("ppo", locals(), "depth vocab" if run else "rank", f"with{'' if run else 'out'} a run")
    rows = pairs("ppo", data)
    if judge and not run:
        raise ValueError(f"judge is {judge}, and there is no run to be judged by it; name one of sft, or let both be learnt here")
    if judge:
        refuse_idle("ppo", locals(), "start", "with a judge")
    if start < 1 and not judge:
        raise ValueError(f"start is {start}; without a judge there must be 1 step or more that learns to judge")
    stages, follow, frozen = list[Objective](), dict[str, tuple[str, float, int]](), list[str]()
    if run:
        base = ground("ppo", run, context)
        codec, sampler, fit, reader = base.codec, base.sampler, rates(base, rank), copy.deepcopy(base.net).headless()
        net, before = tuned(base, rank, 0.0)
        frozen += ["reference", "codec"]
    else:
        codec = tokenizer_of("ppo", "bpe", vocab, context or LENGTH, TURNS)
        policy, reader, sampler, fit = small(codec, depth), small(codec, depth).headless(), Autoregressive(), _fresh()
        net, before = policy, copy.deepcopy(policy)
        stages.append(During(Shown(codec.bos), until=start))
        follow["reference"] = ("main", 0.5, start)
    pace = base.fit.lr / fit.lr if run else 1.0  # of what has no adapter
    reads, scorer = _judge(judge, run, codec) if judge else (reader, Scorer(reader.width))
    nets: dict[str, Network] = {"main": net, "reference": before, "judge": scorer, "judge_reader": reads}
    nets |= {"value": copy.deepcopy(scorer), "critic": copy.deepcopy(reads)} if critic else {}
    if judge:
        frozen += ["judge", "judge_reader"]
    else:
        roles = {"main": "value", "encoder": "critic"} if critic else {"main": "judge", "encoder": "judge_reader"}
        first = System({role: nets[name] for role, name in roles.items()}, Reward(codec.bos), None, codec)
        stages.append(During(Alongside("first", first, roles), until=start, pace=pace))
        if critic:  # what judges is what the critic was by then
            follow |= {"judge": ("value", 0.5, start), "judge_reader": ("critic", 0.5, start)}
    by = Judge(System({"main": scorer, "encoder": reads}, Reward(codec.bos), None, codec))
    kept = (by, Autoregressive(), replies, group, beta, epochs, clip)
    answering = Proximal(*kept, pace=pace) if critic else Reinforce(*kept)
    stages.append(During(answering, since=0 if judge else start, pace=1.0 if run else GENTLE))
    system = System(nets, Together(*stages), sampler, codec, frozen=tuple(frozen), follow=follow)
    return Experiment(system, contested(rows, codec, codec.length), replace(fit, batch=8), PPO, within=300)


def _judge(path: str, run: str, codec: Text) -> tuple[Network, Scorer]:
    """A run of reward: what it reads with, and what makes a number of that.

    Raises:
        ValueError: it is none, or reads other symbols.
    """
    found, experiment = trained(path)
    system = experiment.system
    if not isinstance(system.objective.voice, Reward) or not isinstance(system.codec, Text):
        raise ValueError(f"judge {path} is a run of {found.record['recipe']}, which is no judge; a run of reward is")
    if not alike(system.codec, codec):
        raise ValueError(
            f"judge {path} reads other symbols than {run}, so that a critic that begins as the judge could not read its answers; "
            f"one that can: maquette train reward --run {run}"
        )
    return whole(cast(Network, system.nets["encoder"])), cast(Scorer, system.nets["main"])


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
