"""Language models that think before they answer: one recipe per published way of teaching them to."""

from __future__ import annotations

import copy
from functools import partial

from maquette.codecs.text import TURNS
from maquette.contracts import Network
from maquette.data import Data, open_data
from maquette.data.checks import Check, check_of, graded
from maquette.data.conversations import replies
from maquette.data.questions import asking
from maquette.experiment import Experiment, Fit
from maquette.objectives.during import During
from maquette.objectives.likelihood import NextToken
from maquette.objectives.reinforce import Reinforce
from maquette.objectives.together import Together
from maquette.recipes._causal import small, tokenizer_of
from maquette.recipes._idle import refuse_idle
from maquette.recipes._tuned import ground
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.rules import Rules
from maquette.samplers.thinking import Thinking
from maquette.system import System

# by itself, from scratch, after a budget of 300 training seconds on one CPU thread, planned by what each stage costs at first;
# two runs, planned by the dearer stage alone, .921 and .912 after 94 and 89
REASONER = {"solved": (0.75, 1.0)}
GENTLE = 0.2  # share of the rate of what is learnt from shown steps
PIECES = 1024  # symbols of programs


def reasoner(
    run: str = "",
    data: str = "sums",
    check: str = "",
    group: int = 8,
    beta: float = 0.0,
    start: int = 200,
    context: int = 0,
    depth: int = 4,
    allow_code_exec: bool = False,
) -> Experiment:
    """A model that learns to reason from its own answers, rewarded by a check alone (DeepSeek-AI 2025, arXiv:2501.12948).

    Answers are drawn in groups, and each is made likelier by how much better than its group it did (GRPO; Shao 2024,
    arXiv:2402.03300). Without a run the same network first learns, for some steps, from answers that are shown.

    Args:
        run: a run of sft or of another causal model of text, or a folder of transformers' models, that answers some of the
            questions; it must stay there until training ends.
        data: questions whose answers can be checked: sums, countdown, functions, or, with a check, a .jsonl of yours with
            "prompt" and "completion".
        check: what an answer is checked by: final (what stands behind the last "=", or all of it, is what the completion ends
            in), countdown, or passes (the program gives what the row's checks ask for); empty = the data's own.
        group: answers to each question.
        beta: weight of the divergence from the run, or from what shown answers taught, in nats; 0 = none.
        start: steps that learn from shown answers, without a run.
        context: symbols of question and answer; 0 = as many as the run reads, without a run 96, of programs 192.
        depth: blocks, without a run.
        allow_code_exec: run the programs that it writes, walled in, where answers are programs.
    """
    if run:
        refuse_idle("reasoner", locals(), "start depth", "with a run")
    opened = open_data(data)
    rule = rule_of(opened, data, check)
    named = rule.name
    if rule.executes and not allow_code_exec:
        raise ValueError(
            f"reasoner is rewarded on data {data!r} by running what it writes, and that is done, walled in, only where it is "
            "allowed: --allow-code-exec"
        )
    reward = partial(graded, rule)
    if not run and start < 1:
        raise ValueError(f"start is {start}; without a run there must be 1 step or more that learns from shown answers")
    sampler = Autoregressive(rules=Rules(thinking=Thinking(closes=rule.closes, again=rule.again)))
    reinforce = Reinforce(reward, sampler, replies, group, beta)
    if run:
        base = ground("reasoner", run, context)
        found: dict[str, Network] = {"main": copy.deepcopy(base.net).requires_grad_(True)}
        found |= {"reference": base.net} if beta else {}
        system = System(found, reinforce, sampler, base.codec, frozen=("reference", "codec") if beta else ("codec",))
        fit = Fit(steps=200, batch=16, lr=base.fit.lr / 5, betas=(0.9, 0.99), warmup=0.1, decay=0.5, bf16=base.fit.bf16)
        return Experiment(system, asking(opened, base.codec, base.codec.length, named), fit, REASONER, within=300)
    pieces = PIECES if rule.executes else 0  # programs are long in bytes
    codec = tokenizer_of("reasoner", "bpe", pieces, context or (192 if rule.executes else 96), TURNS)
    net = small(codec, depth)
    stages = Together(During(NextToken(codec.bos), until=start), During(reinforce, since=start, pace=GENTLE))
    nets: dict[str, Network] = {"main": net, **({"reference": copy.deepcopy(net)} if beta else {})}
    follow = {"reference": ("main", 0.5, start)} if beta else {}
    system = System(nets, stages, sampler, codec, follow=follow)
    fit = Fit(steps=400, batch=16, lr=1e-2, betas=(0.9, 0.99), decay=0.5, muon=0.02, bf16=True)
    return Experiment(system, asking(opened, codec, codec.length, named), fit, REASONER, within=300)


def rule_of(opened: Data, data: str, check: str) -> Check:
    """What answers are checked by: as it is named, else the data's own.

    Raises:
        ValueError: there is none, or it is for rows of another kind.
    """
    programs = opened.facts.field == "text" and {"prompt", "check"} <= opened.train.columns.keys()
    named = check or opened.facts.check or ("passes" if programs else "")
    if opened.facts.field != "text" or not named:
        raise ValueError(
            f"reasoner learns from answers that can be checked, and data {data!r} has none; sums, countdown and functions have, "
            "and for rows of yours with an answer each there is --check final"
        )
    rule = check_of(named)
    if rule.executes != programs:
        raise ValueError(
            f"check is {named!r}, and data {data!r} has {'programs' if programs else 'no programs with checks'}; allowed is "
            f"{'passes' if programs else 'final or countdown'}"
        )
    if missing := [field for field in rule.needs if field not in opened.train.columns]:
        raise ValueError(
            f"check is {named!r}, which judges by a row's {' and '.join(rule.needs)}, and data {data!r} has no {missing[0]}; "
            "countdown has, and answers of any kind are checked by final"
        )
    return rule
