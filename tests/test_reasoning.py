"""Answers that are checked: the rules, the questions, what a group's answers are worth, and that what is rewarded grows."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import maquette
from maquette import api, training
from maquette.codecs.text import TURNS, Bytes
from maquette.contracts import IGNORE
from maquette.data import executed, open_data
from maquette.data.checks import Check, check_of, countdown, final, graded
from maquette.data.conversations import replies
from maquette.data.errors import DataError
from maquette.data.executed import Programs
from maquette.evaluate import choose, judge
from maquette.metrics.evidence import Evidence
from maquette.networks import presets
from maquette.networks.transformer import Transformer
from maquette.objectives import likelihood, reinforce
from maquette.objectives.during import During
from maquette.objectives.likelihood import NextToken
from maquette.objectives.reinforce import Reinforce, advantages, divergence, grpo, rewarded
from maquette.objectives.rollout import answered
from maquette.runs import build
from maquette.samplers import writing
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.outside import Outside
from maquette.sandbox import Uncontained
from maquette.sandbox.checking import checked
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
    with pytest.raises(ValueError, match=r"check is 'finale'; allowed are final, countdown, passes; nearest is final"):
        check_of("finale")
    with pytest.raises(DataError, match=r"check final failed on the answer '=3' to '1\+2': KeyError"):
        graded(check_of("final"), [{"source": "1+2"}], ["=3"])
    with pytest.raises(DataError, match="check worth gives nan for the answer 'x'"):
        graded(Check("worth", lambda row, reply: math.nan), [{"source": "?"}], ["x"])
    with pytest.raises(ValueError, match=r"judges by a row's numbers and target, and data 'sums' has no numbers; countdown has"):
        build("reasoner", {"data": "sums", "check": "countdown"}, 0)


@pytest.fixture
def programs():
    """A check of its own that runs programs."""
    found = Programs()
    try:
        found.warm([])
    except Uncontained as error:
        pytest.skip(str(error))
    yield found
    found.close()


def test_a_program_is_right_by_what_it_gives(programs):
    row = {"prompt": "def f(x):\n", "check": checked([("f(2)", "4"), ("f(3)", "9")])}
    bodies = [
        "    return x * x",
        "    return x + 2",
        "    return 1 / 0",
        "    while True: pass",
        "    return (",
        "",
        "    exit()",
    ]
    assert [programs(row, body) for body in bodies[:1] * 2 + bodies[1:]] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert graded(Check("passes", programs), [row] * 2, bodies[:2]).tolist() == [1, 0]
    with pytest.raises(DataError, match="check passes failed on the answer 'x' to 'f': KeyError: 'prompt'"):
        graded(Check("passes", programs), [{"source": "f"}], ["x"])


def test_programs_are_run_as_a_reward_where_that_is_allowed(programs, monkeypatch):
    monkeypatch.setattr(executed.passes, "sandbox", programs.sandbox)
    with pytest.raises(ValueError, match="only where it is allowed: --allow-code-exec"):
        build("reasoner", {"data": "functions", "depth": 1}, 0)
    experiment = build("reasoner", {"data": "functions", "depth": 1, "allow_code_exec": True}, 0)[0]
    system, data = experiment.system, experiment.data
    system.learn(data.train)
    batch, objective = data.train.rows(torch.arange(2)), system.objective.last.objective
    shown = [row["text"] for row in batch["row"]]
    assert all(row["text"].startswith(row["prompt"]) is False and row["source"] == row["prompt"] for row in batch["row"])
    assert replies(system.codec, batch["code"], batch["start"]) == shown
    assert rewarded(objective.reward, [*batch["row"], *batch["row"]], [*shown, *shown[::-1]]).tolist() == [1, 1, 0, 0]
    told = judge(Evidence(data, system), choose(["solved"]))
    assert told["skipped"] == {"solved": "generated code is run only where that is allowed: --allow-code-exec"}
    with pytest.raises(ValueError, match="check is 'final', and data 'functions' has programs; allowed is passes"):
        build("reasoner", {"data": "functions", "check": "final"}, 0)
    with pytest.raises(ValueError, match="'sums' has no programs with checks; allowed is final or countdown"):
        build("reasoner", {"check": "passes", "allow_code_exec": True}, 0)


def test_what_was_allowed_where_a_run_began_is_not_allowed_where_it_goes_on(monkeypatch):
    begun = SimpleNamespace(record={"arguments": {"allow_code_exec": True}})
    monkeypatch.setattr(training.Run, "open", lambda path: begun)
    with pytest.raises(ValueError, match=r"a-strangers learns by running what it writes, .*: --allow-code-exec"):
        api.resume("a-strangers")
    with pytest.raises(AttributeError, match="held"):  # goes on
        api.resume("a-strangers", allow_code_exec=True)


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


class Apart:
    """An engine that sees symbols, and of the weights a file, anew at every so many batches."""

    def __init__(self, path, every: int):
        self.net, self.path, self.every, self.heard = Transformer(257, 32, 1, 2, style=presets.small()), path, every, 0
        self.last: tuple[list[list[int]], list] = ([], [])

    def learn(self, weights):
        if self.heard % self.every == 0:
            save_file({name: value.contiguous() for name, value in weights.items()}, self.path)
            self.net.load_state_dict(load_file(self.path))
        self.heard += 1

    def write(self, prompts, room, seeds):
        code, rng = torch.tensor(prompts), torch.Generator().manual_seed(seeds[0] % 2**31)
        before, logs = torch.cat([torch.full_like(code[:, :1], 256), code], 1), []
        for _ in range(min(room)):
            chance = self.net(before)[:, -1].log_softmax(-1)
            drawn = torch.multinomial(chance.exp(), 1, generator=rng)
            logs.append(chance.gather(1, drawn))
            before = torch.cat([before, drawn], 1)
        symbols, told = before[:, -len(logs) :].tolist(), torch.cat(logs, 1).tolist()
        ends = [(row.index(256) + 1) if 256 in row else len(row) for row in symbols]
        return [(row[:end], log[:end]) for row, log, end in zip(symbols, told, ends, strict=True)]


def test_an_engine_outside_writes_and_training_goes_on(tmp_path):
    system, batch = toy()
    system.objective.sampler = Outside(Apart(tmp_path / "weights.safetensors", every=3))
    optimizer = torch.optim.AdamW(system.nets["main"].parameters(), lr=1e-2)
    worth, behind = [], []
    for step in range(24):
        loss, logs = system.objective.reinforce(system, batch, Streams.of(step, 8), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        worth.append(float(logs["reward"]))
        behind.append(float(logs["behind"]))
    assert sum(worth[-3:]) / 3 - worth[0] > 0.2
    assert max(behind[::3]) < 1e-6 < 1e-4 < min(behind[2::3])  # fresh weights, and those of two steps ago


def test_what_older_weights_wrote_counts_by_how_likely_it_is_now(tmp_path):
    """Summed over all that may be drawn, the weighted gradient is that of the policy itself."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=rng).requires_grad_()
    old = (logits.detach() + 0.05 * torch.randn(5, generator=rng)).log_softmax(0)
    better, one = torch.randn(5, generator=rng), torch.ones(1, 1, dtype=torch.bool)
    logp = logits.log_softmax(0)
    each = [grpo(logp[i].view(1, 1), old[i].view(1, 1), better[i : i + 1], one) for i in range(5)]
    (found,) = torch.autograd.grad(sum(old[i].exp() * each[i] for i in range(5)), logits, retain_graph=True)
    (want,) = torch.autograd.grad(-(logp.exp() * better).sum(), logits)
    torch.testing.assert_close(found, want)

    system, batch = toy()
    outside, start = Outside(Apart(tmp_path / "weights.safetensors", every=2)), batch["start"].repeat_interleave(8, 0)
    code, said = outside.reported(system, 64, start=start, rng=Streams.of(1, 64))
    for p in system.nets["main"].parameters():  # learnt something since
        torch.nn.init.normal_(p, std=0.1)
    said[0, 1] = torch.nan  # nobody drew it

    class Before(Outside):
        def reported(self, *given, **more):
            return code, said

    system.objective.sampler = Before(outside.engine)
    loss, _ = system.objective.reinforce(system, batch, Streams.of(0, 8), 0)
    worth = system.objective.reward([], system.objective.replies(system.codec, code, start))
    with torch.no_grad():
        now = writing.said(system.nets["main"], code, None, system.codec, said.isfinite())
    ratio, gain = (now - said).exp(), advantages(worth.view(8, 8)).view(64, 1)
    want = -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).nanmean(1).mean()
    assert float(loss.detach()) == pytest.approx(float(want), abs=1e-5) and abs(float(want)) > 1e-3


@pytest.mark.parametrize(
    ("answer", "say"),
    [
        (([1] * 8, [0.0] * 8), "8 symbols and 8 log-probabilities; they must be as many, and at most 7"),
        (([1, 2], [0.0]), "2 symbols and 1 log-probabilities"),
        (None, "gave 0 answers to 1 prompts"),
    ],
)
def test_answers_from_outside_that_are_none_are_refused(answer, say):
    class Odd:
        def learn(self, weights): ...

        def write(self, prompts, room, seeds):
            return [answer] if answer else []

    system, batch = toy()
    with pytest.raises(ValueError, match=say):
        list(Outside(Odd()).draw(system, 1, start=batch["start"][:1], rng=Streams.of(0, 1)))
    holes = torch.tensor([[1, IGNORE, 2, IGNORE]])
    with pytest.raises(ValueError, match="a hole before its end"):
        list(Outside(Odd()).draw(system, 1, start=holes, rng=Streams.of(0, 1)))


@pytest.mark.parametrize(
    ("gives", "say"),
    [
        (lambda rows, said: torch.full((len(rows),), torch.nan), "reward odd gives nan for the answer '.*' to None: no number"),
        (lambda rows, said: 1 / 0, "reward odd failed on 64 answers, the first '.*': ZeroDivisionError: division by zero"),
        (lambda rows, said: torch.zeros(2, 2), r"reward odd gives \(2, 2\) numbers for 64 answers"),
    ],
)
def test_a_reward_that_is_none_is_told_by_its_name(gives, say):
    system, batch = toy()
    gives.__name__ = "odd"
    system.objective.reward = gives
    with pytest.raises(DataError, match=say):
        system.objective.reinforce(system, batch, Streams.of(0, 8), 0)


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
    more = {name: value for name, value in TINY.items() if name not in ("depth", "start")}
    maquette.train("reasoner", steps=1, out=tmp_path / "more", run=str(made.run.path), beta=0.1, **own, **more)
    assert "reinforce/divergence" in (tmp_path / "more" / "log.jsonl").read_text()
    told = maquette.evaluate(tmp_path / "more", only=["solved"])["metrics"]
    assert told["solved"]["value"] <= told["solved by the best of 8"]["value"] <= 1 and told["thinking"]["value"] > 0
    for name in ("solved", "solved by majority of 8", "solved by the best of 8"):  # none of a few is not known to be none of all
        assert 0 <= told[name]["low"] <= told[name]["value"] < told[name]["high"] <= 1
