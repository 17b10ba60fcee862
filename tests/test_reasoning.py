"""Answers that are checked: the rules, the questions, what a group's answers are worth, and that what is rewarded grows."""

from __future__ import annotations

import math

import pytest
import torch

import maquette
from maquette.codecs.text import TURNS, Bytes
from maquette.contracts import IGNORE
from maquette.data import open_data
from maquette.data.checks import Check, check_of, countdown, final, graded
from maquette.data.errors import DataError
from maquette.networks import presets
from maquette.networks.transformer import Transformer
from maquette.objectives import likelihood, reinforce
from maquette.objectives.during import During
from maquette.objectives.likelihood import NextToken
from maquette.objectives.reinforce import Reinforce, advantages, divergence, grpo
from maquette.objectives.rollout import answered
from maquette.runs import build
from maquette.samplers import writing
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, run

TINY = {"depth": 1, "start": 2, "group": 2, "context": 112}
ASKED = {"source": "3 8 5 = 29", "numbers": [3, 5, 8], "target": 29}


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("3*8=24 24+5=29", 1),
        ("3+8=11 11*5=55; 3*8=24 24+5=29", 1),
        ("3*8=24 24+5=29; 3+8=11 11*5=55", 0),  # the last try counts
        ("3*8=25 25+5=29", 0),  # two steps that are wrong
        ("3*8=24 4+5=29", 0),  # does not go on from what it came to
        ("3*8=24 24+3=27", 0),
        ("24+5=29", 0),  # numbers that nobody gave
        ("3*8=24 24+5=29 29+0=29", 0),
        ("29", 0),
        ("", 0),
    ],
)
def test_a_countdown_is_right_by_its_last_try(reply, right):
    assert countdown(ASKED, reply) == right


def test_a_sum_is_right_by_what_stands_last():
    row = {"source": "7+6", "answer": "13"}
    assert [final(row, said) for said in ("7+6=13 =13", "=13", "13", "=31", "=13 =14", "")] == [1, 1, 1, 0, 0, 0]
    assert [final({"source": "7+6", "text": "6+7 = 13"}, said) for said in ("=13", "13", "6+7 = 14")] == [1, 1, 0]


@pytest.mark.parametrize("name", ["sums", "countdown"])
def test_shown_answers_are_right_and_held_out_questions_are_new(name):
    found = open_data(name)
    held, train = found.held.all(), found.train.all()
    rows = [{key: column[i] for key, column in held.items()} for i in range(len(found.held))]
    assert float(graded(check_of(found.facts.check), rows, held["text"]).mean()) == 1
    assert not set(held["source"]) & set(train["source"])
    assert len(set(train["source"])) == len(train["source"]) >= 9000


def test_checks_that_cannot_be_used_say_so():
    with pytest.raises(ValueError, match=r"check is 'finale'; allowed are final, countdown; nearest is final"):
        check_of("finale")
    with pytest.raises(DataError, match=r"check final failed on the answer '=3' to '1\+2': KeyError"):
        graded(check_of("final"), [{"source": "1+2"}], ["=3"])
    with pytest.raises(DataError, match="check worth gives nan for the answer 'x'"):
        graded(Check("worth", lambda row, reply: math.nan), [{"source": "?"}], ["x"])


def test_an_answer_is_worth_what_it_is_better_by():
    found = advantages(torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [0.2, 0.4, 0.6, 0.8]]))
    torch.testing.assert_close(found.mean(1), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[0], torch.tensor([1.5, -0.5, -0.5, -0.5]), atol=1e-3, rtol=0)
    assert not found[1].any()


def test_the_loss_is_the_papers_sum():
    rng = torch.Generator().manual_seed(0)
    logp, old, far = (torch.randn(4, 5, generator=rng).mul(0.5) - 1 for _ in range(3))
    better, written = torch.randn(4, generator=rng), torch.rand(4, 5, generator=rng) < 0.7
    written[:, 0] = True
    want = 0.0
    for i in range(4):
        row = 0.0
        for t in range(5):
            if written[i, t]:
                ratio, a = math.exp(logp[i, t] - old[i, t]), float(better[i])
                apart = math.exp(far[i, t] - logp[i, t]) - float(far[i, t] - logp[i, t]) - 1
                row += min(ratio * a, min(max(ratio, 0.8), 1.2) * a) - 0.1 * apart
        want -= row / int(written[i].sum()) / 4
    assert float(grpo(logp, old, better, written, far=far, beta=0.1)) == pytest.approx(want, abs=1e-5)
    assert (divergence(logp, far) >= 0).all() and not divergence(logp, logp).any()


def test_an_answer_is_what_was_written_up_to_its_end():
    codec = Bytes(8, TURNS)
    end = codec.ends[0]
    start = torch.tensor([[5, 6, IGNORE, IGNORE, IGNORE, IGNORE]])
    code = torch.tensor([[5, 6, 7, end, end, end]])
    assert answered(code, start, codec).tolist() == [[False, False, True, True, False, False]]


def toy(beta: float = 0.0) -> tuple[System, dict]:
    """A small network that is asked "?" and rewarded for answers with many of one letter."""
    torch.manual_seed(0)
    codec = Bytes(8)
    start = torch.full((8, 8), IGNORE)
    start[:, 0] = ord("?")
    net = Transformer(codec.vocab, 32, 1, 2, style=presets.small())
    nets = {"main": net, **({"reference": Transformer(codec.vocab, 32, 1, 2, style=presets.small())} if beta else {})}
    if beta:
        nets["reference"].load_state_dict(net.state_dict())

    def reward(rows, replies):
        return torch.tensor([sum(ord(letter) % 2 for letter in reply) / 7 for reply in replies])

    sampler = Autoregressive(length=8)
    objective = Reinforce(reward, sampler, lambda codec, code, start: codec.decode(code[:, 1:]), group=8, beta=beta)
    return System(nets, objective, sampler, codec, frozen=("reference",) if beta else ()), {"start": start, "row": [{}] * 8}


@pytest.mark.parametrize("beta", [0.0, 20.0])
def test_what_is_rewarded_grows_and_a_reference_holds_it_back(beta):
    system, batch = toy(beta)
    optimizer = torch.optim.AdamW(system.nets["main"].parameters(), lr=1e-2)
    worth = []
    for step in range(24):
        loss, logs = system.objective.reinforce(system, batch, Streams.of(step, 8), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        worth.append(float(logs["reward"]))
    gained = sum(worth[-3:]) / 3 - worth[0]
    assert gained > 0.2 if not beta else gained < 0.1


@pytest.mark.parametrize("begins", [True, False])
def test_answers_are_scored_as_they_were_drawn(begins, monkeypatch):
    """Also by a codec of which the first symbol of a text has none before it, as published ones are."""
    system, batch = toy()
    system.codec.begins = begins
    for p in system.nets["main"].parameters():  # loud: layers that write begin as nothing
        torch.nn.init.normal_(p, std=0.5)
    seen = []

    def scored(net, code, counted, document, bos):
        seen.append((code, counted, likelihood.said(net, code, counted, document, bos)))
        return seen[-1][-1]

    monkeypatch.setattr(reinforce, "said", scored)
    system.objective.reinforce(system, batch, Streams.of(0, 8), 0)
    ((code, counted, found),) = seen
    with torch.no_grad():
        want = writing.said(system.nets["main"], code, None, system.codec, counted).nan_to_num(0.0)
        other = writing.said(system.nets["main"], code, None, Bytes(8), counted).nan_to_num(0.0)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
    assert begins or float((found.detach() - other).abs().max()) > 0.01  # it matters


def test_phases_have_their_time_and_their_rate():
    shown = During(NextToken(0), since=2, until=4, pace=0.0)
    assert [each.due(step) for each in shown.phases() for step in range(5)] == [False, False, True, True, False]
    with pytest.raises(ValueError, match="never due"):
        During(NextToken(0), since=4, until=4)
    experiment = build("reasoner", {"data": "sums", **TINY, "start": 5}, 0)[0]
    system = experiment.system
    before = {name: value.clone() for name, value in system.state_dict().items()}
    system.objective = During(NextToken(system.codec.bos), pace=0.0)
    fit = maquette.experiment.Fit(steps=1, batch=4)
    list(run(system, experiment.data, Progress(fit)))
    assert all(torch.equal(value, before[name]) for name, value in system.nets.state_dict(prefix="nets.").items())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": "stdlib"}, "answers that can be checked"),
        ({"check": "finale"}, "allowed are final, countdown"),
        ({"group": 1}, "must be 2 or more"),
        ({"beta": -0.1}, "must be 0 or more"),
        ({"start": 0}, "1 step or more"),
    ],
)
def test_what_it_cannot_learn_by_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        build("reasoner", {**TINY, **given}, 0)


def test_a_run_is_trained_judged_and_asked(tmp_path):
    rows = "".join(f'{{"prompt": "{a}+{b}", "completion": "{a}+{b} = {a + b}"}}\n' for a in range(12) for b in range(12))
    (tmp_path / "sums.jsonl").write_text(rows)
    own = {"data": str(tmp_path / "sums.jsonl"), "check": "final", "batch": 2, "quiet": True, "compile": False}
    with pytest.raises(ValueError, match="--check final"):
        build("reasoner", {**TINY, "data": own["data"]}, 0)
    made = maquette.train("reasoner", steps=3, out=tmp_path / "run", **own, **TINY)
    maquette.train("reasoner", steps=1, out=tmp_path / "more", run=str(made.run.path), beta=0.1, **own, **TINY)
    assert "reinforce/divergence" in (tmp_path / "more" / "log.jsonl").read_text()
    told = maquette.evaluate(tmp_path / "more", only=["solved"])["metrics"]
    assert told["solved"]["value"] <= told["solved by the best of 8"]["value"] <= 1 and told["thinking"]["value"] > 0
