"""Language models that correct themselves by written principles."""

from __future__ import annotations

import copy
import difflib
from dataclasses import replace

from maquette.codecs.text import TURNS
from maquette.contracts import Network
from maquette.data import Data
from maquette.data.constitution import held_to, principled
from maquette.data.core import noted, recalled
from maquette.data.principles import PRINCIPLES, RULES, meant
from maquette.experiment import Experiment, Fit
from maquette.objectives.constitution import Critic, Preferred, Revised
from maquette.objectives.during import During
from maquette.objectives.likelihood import NextToken
from maquette.objectives.together import Together
from maquette.recipes._causal import small, tokenizer_of
from maquette.recipes._idle import refuse_idle
from maquette.recipes._tuned import ground, rates
from maquette.recipes.instruction import talks
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

# by itself, its own 502 steps, 337 and 344 training seconds on one CPU thread; two runs: .92 and .95, .66 and .61, .07 and .01
CONSTITUTIONAL = {"harmless": (0.8, 1.0), "both": (0.5, 1.0), "evasive": (0.0, 0.1)}
PACES = (0.4, 0.2)  # shares of the rate of what is learnt from shown answers: of revisions, of preferences
TUNING = (1.0, 0.2)  # the same of a run's
STEADY = 0.98  # decay of the average that the critic is of what learns from shown conversations


def constitutional(
    run: str = "",
    data: str = "principles",
    principles: str = "",
    rounds: int = 4,
    revise: int = 16,
    prefer: int = 36,
    beta: float = 0.1,
    start: int = 450,
    context: int = 0,
    depth: int = 4,
    vocab: int = 640,
) -> Experiment:
    """Constitutional tuning: a model criticises, revises and compares its own answers by principles (Bai 2022, arXiv:2212.08073).

    It answers questions, criticises each answer by a principle, revises it, again by others, and learns the last revision; then
    it draws two answers, chooses the better one by a principle, and makes that one likelier. Nobody else says what is good. What
    criticises is the model as it was. Without a run a small transformer learns first, from shown ones, to answer as people do,
    badly too, to criticise, to revise and to choose.

    Args:
        run: a run of sft or another causal model of text that can converse, or a folder of transformers' models; it must stay
            there until training ends.
        data: conversations, whose questions are answered; without a run they must show critiques too, as principles does.
        principles: a text file with a principle on each line; empty = the data's own.
        rounds: critiques and revisions of an answer, each by another principle as long as there are.
        revise: steps that learn from revisions; 0 = preferences alone.
        prefer: steps that then learn from preferences, and the last ones; 0 = revisions alone. In several times as many answers
            become harmless and say nothing, which the critic does not see.
        beta: how dear it is to depart, by preferences, from what the revisions made; larger = nearer to it.
        start: steps that learn from shown conversations, without a run.
        context: symbols of a question, its answer, critique and revision; 0 = as many as the run reads, 160 without a run.
        depth: blocks, without a run.
        vocab: symbols of the BPE, without a run; 0 reads bytes.
    """
    if run:
        refuse_idle("constitutional", locals(), "start depth vocab", "with a run")
    opened = understood(held_to(talks("constitutional", data), principles))
    law = opened.facts.principles
    for name, steps in (("revise", revise), ("prefer", prefer)):
        if steps < 0:
            raise ValueError(f"{name} is {steps}; steps must be 0 or more, 0 = none of these")
    if not revise + prefer:
        raise ValueError("revise and prefer are 0: nothing would be learnt by principles; nearest is prefer 36")
    if not run:
        return _alone(opened, law, rounds, revise, prefer, beta, start, context, depth, vocab)
    base = ground("constitutional", run, context, talks=False)
    if not base.codec.converses:
        raise ValueError(
            f"{run} cannot converse, so that it can criticise no answer of its own; one that can: maquette train sft --run {run}"
        )
    net: Network = copy.deepcopy(base.net).requires_grad_(True)
    nets = {"main": net, "critic": base.net, "reference": copy.deepcopy(base.net)}
    stages = _stages(base.codec.bos, law, rounds, beta, 0, revise, prefer, TUNING)
    frozen = ("critic", "codec") if revise else ("critic", "reference", "codec")
    follow = {"reference": ("main", 0.5, revise)} if revise else {}
    system = System(nets, Together(*stages), base.sampler, base.codec, frozen=frozen, follow=follow)
    fit = replace(rates(base, 0), steps=revise + prefer, batch=16)
    return Experiment(system, principled(opened, base.codec, base.codec.length), fit, CONSTITUTIONAL, within=600)


def _alone(
    opened: Data,
    law: tuple[str, ...],
    rounds: int,
    revise: int,
    prefer: int,
    beta: float,
    start: int,
    context: int,
    depth: int,
    vocab: int,
) -> Experiment:
    """A model that learns from shown conversations first."""
    if start < 1:
        raise ValueError(f"start is {start}; without a run there must be 1 step or more that learns from shown conversations")
    codec = tokenizer_of("constitutional", "bpe", vocab, context or 160, TURNS)
    net = small(codec, depth)
    stages = [During(NextToken(codec.bos), until=start), *_stages(codec.bos, law, rounds, beta, start, revise, prefer, PACES)]
    nets = {"main": net, "critic": copy.deepcopy(net), "reference": copy.deepcopy(net)}
    follow = {"critic": ("main", STEADY, start), "reference": ("main", 0.5, start + revise)}
    system = System(nets, Together(*stages), Autoregressive(), codec, follow=follow)
    fit = Fit(steps=start + revise + prefer, batch=16, lr=1e-2, betas=(0.9, 0.99), decay=0.2, muon=0.02, bf16=True)
    return Experiment(system, principled(opened, codec, codec.length), fit, CONSTITUTIONAL, within=600)


def understood(opened: Data) -> Data:
    """The same data, with a note on each principle that none of its conversations is held to, where that can be told."""
    if opened.facts.name not in RULES or recalled() is not None:
        return opened
    known = [way for ways in PRINCIPLES.values() for way in ways]
    for each in (each for each in opened.facts.principles if meant(each) is None):
        near = next(iter(difflib.get_close_matches(each, known, 1, 0)))
        said = f"no conversation of {opened.facts.name} is held to {each!r}: who learns from these will not know it"
        opened = noted(opened, f"{said}, and no figure tells; nearest is {near!r}")
    return opened


def _stages(
    bos: int, law: tuple[str, ...], rounds: int, beta: float, since: int, revise: int, prefer: int, paces: tuple[float, float]
) -> list[During]:
    """What is learnt from revisions, and then from preferences."""
    critic, turn = Critic(draws=Autoregressive(), finds=Autoregressive(temperature=0.0)), since + revise
    revised, preferred = Revised(bos, law, critic, rounds), Preferred(bos, law, critic, beta)
    stages = [During(revised, since, turn, paces[0])] if revise else []
    return [*stages, During(preferred, turn, turn + prefer, paces[1])] if prefer else stages
