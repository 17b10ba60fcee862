"""A small language model that learns from a larger one: what is compared, what it writes, what its teacher wrote before."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import maquette
from maquette.codecs.text import TURNS, Bytes
from maquette.contracts import IGNORE
from maquette.data.core import Split
from maquette.data.rewritten import Rewritten
from maquette.networks import presets
from maquette.networks.transformer import Transformer
from maquette.nn.entropy import each_divergence
from maquette.objectives import distillation
from maquette.objectives.distillation import Distillation, begun
from maquette.recipes import UnknownName
from maquette.runs import build
from maquette.samplers import writing
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System

QUICK = {"quiet": True, "compile": False, "batch": 4, "steps": 2}


def oracle(student: torch.Tensor, teacher: torch.Tensor, beta: float, heat: float) -> torch.Tensor:
    """The papers' sums over symbols, by hand."""
    q, p = (torch.softmax(x.double() / heat, -1) for x in (student, teacher))
    both = beta * p + (1 - beta) * q
    if beta == 0:
        return heat**2 * (p * (p / q).log()).sum(-1)
    if beta == 1:
        return heat**2 * (q * (q / p).log()).sum(-1)
    return heat**2 * (beta * (p * (p / both).log()).sum(-1) + (1 - beta) * (q * (q / both).log()).sum(-1))


@pytest.mark.parametrize("heat", [1.0, 2.5])
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_a_divergence_and_its_slope_are_the_papers(beta, heat):
    rng = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 50, 11, generator=rng).mul(2).requires_grad_() for _ in range(2))
    found, want = each_divergence(student, teacher, beta, heat), oracle(student, teacher, beta, heat)
    torch.testing.assert_close(found.double(), want, atol=1e-5, rtol=1e-5)
    weight = torch.rand(3, 50, generator=rng)
    (mine,) = torch.autograd.grad((found * weight).sum(), student)
    (theirs,) = torch.autograd.grad((want * weight).sum(), student)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert not each_divergence(student, student, beta, heat).abs().max() > 1e-5


def test_at_a_high_temperature_logits_are_matched_at_the_same_pace():
    """The gradient goes to the difference of centred logits over how many there are (Hinton 2015, eq. 4): T^2 keeps it there."""
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(1, 8, generator=rng, requires_grad=True), torch.randn(1, 8, generator=rng)
    (slope,) = torch.autograd.grad(each_divergence(student, teacher, temperature=200.0).sum(), student)
    apart = (student - student.mean()) - (teacher - teacher.mean())
    torch.testing.assert_close(slope, (apart / 8).detach(), atol=2e-3, rtol=0)


def test_one_way_covers_two_peaks_and_the_other_keeps_to_one():
    place = torch.arange(21.0)
    teacher = torch.logaddexp(-(place - 4).square() / 4, -(place - 15).square() / 4)[None]
    wide, far = {}, {}
    for beta in (0.0, 1.0):
        told = torch.tensor([5.0, 0.5], requires_grad=True)  # a normal's middle and the logarithm of its width
        optimizer = torch.optim.Adam([told], lr=0.1)
        for _ in range(60):
            optimizer.zero_grad()
            loss = each_divergence((-((place - told[0]) / told[1].exp()).square() / 2)[None], teacher, beta).sum()
            loss.backward()
            optimizer.step()
        wide[beta], far[beta] = told.detach()[1].exp().item(), loss.item()
    assert wide[0.0] > 5
    assert wide[1.0] == pytest.approx(2**0.5, abs=0.05) and far[1.0] == pytest.approx(math.log(2), abs=0.01)


def loud(depth: int, codec: Bytes, seed: int) -> Transformer:
    """A network that says something: layers that write begin as nothing."""
    torch.manual_seed(seed)
    net = Transformer(codec.vocab, 32, depth, 2, style=presets.small())
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net


def pair(begins: bool = True, **dials) -> tuple[System, dict]:
    """A teacher, a student, and rows of bytes."""
    codec = Bytes(12)
    codec.begins = begins
    nets = {"main": loud(1, codec, 0), "teacher": loud(2, codec, 1)}
    system = System(nets, Distillation(codec.bos, **dials), Autoregressive(), codec, frozen=("teacher",))
    return system.train(), {"code": torch.randint(32, 127, (6, 12), generator=torch.Generator().manual_seed(2))}


def test_logits_are_mixed_with_what_stands_there_and_the_teacher_learns_nothing():
    system, batch = pair(share=0.25, temperature=2.0, beta=0.5)
    system.nets["teacher"].requires_grad_(True)
    found, logs = system.objective.predict(system, batch, Streams.of(0, 6), 0)
    found.backward()
    assert all(p.grad is None for p in system.nets["teacher"].parameters())
    assert all(p.grad is not None for p in system.nets["main"].parameters())
    x = torch.cat([torch.full((6, 1), 256), batch["code"][:, :-1]], 1)
    with torch.no_grad():
        student, teacher = (system.nets[name](x) for name in ("main", "teacher"))
    apart, plain = oracle(student, teacher, 0.5, 2.0).mean(), F.cross_entropy(student.flatten(0, 1), batch["code"].flatten())
    assert found.item() == pytest.approx(0.75 * apart.item() + 0.25 * plain.item(), rel=1e-4)
    assert logs["plain"].item() == pytest.approx(plain.item(), rel=1e-4)
    asked, _ = system.objective.predict(system, {**batch, "learnt": torch.arange(12).expand(6, 12) >= 9}, Streams.of(0, 6), 0)
    want = 0.75 * oracle(student, teacher, 0.5, 2.0)[:, 9:].mean() + 0.25 * F.cross_entropy(
        student[:, 9:].flatten(0, 1), batch["code"][:, 9:].flatten()
    )
    assert asked.item() == pytest.approx(want.item(), rel=1e-4)


@pytest.mark.parametrize("begins", [True, False])
def test_its_own_texts_are_judged_as_they_were_drawn(begins, monkeypatch):
    """Also where nothing stood before a first symbol when they were drawn, as of published codecs."""
    system, batch = pair(begins, sampler=Autoregressive())
    seen = []

    def kept(logits, teacher, *dials):
        seen.append((logits, teacher))
        return each_divergence(logits, teacher, *dials)

    monkeypatch.setattr(distillation, "each_divergence", kept)
    loss, logs = system.objective.own(system, batch, Streams.of(3, 6), 0)
    start = begun(batch["code"], batch, system.codec)
    assert ((start != IGNORE).sum(1) == 3).all() and (start[:, :3] == batch["code"][:, :3]).all()
    with torch.no_grad():
        *_, code = Autoregressive().draw(system, 6, start=start, rng=Streams.of(3, 6))
        written = distillation.answered(code, start, system.codec)
        want = [writing.said(system.nets[name], code, None, system.codec, written) for name in ("main", "teacher")]
    for found, each in zip(seen[0], want, strict=True):
        said = found.log_softmax(-1).gather(2, code[:, : found.shape[1], None])[..., 0]
        torch.testing.assert_close(said[written[:, : found.shape[1]]], each[written], atol=1e-4, rtol=1e-4)
    every = oracle(*seen[0], 0.0, 1.0)[written[:, : seen[0][0].shape[1]]]
    assert loss.item() == pytest.approx(every.mean().item(), rel=1e-4)
    assert float(logs["length"]) == pytest.approx(float(written.sum(1).float().mean()))


def test_what_it_writes_itself_comes_nearer_to_its_teacher():
    system, batch = pair(sampler=Autoregressive(), beta=1.0)
    optimizer = torch.optim.AdamW(system.nets["main"].parameters(), lr=1e-2)
    losses = []
    for step in range(25):
        loss, _ = system.objective.own(system, batch, Streams.of(step, 6), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_its_own_texts_have_their_steps():
    phases = Distillation(0, sampler=Autoregressive(), every=3).phases()
    assert [(each.name, each.every) for each in phases] == [("predict", 1), ("own", 3)]
    assert [each.name for each in Distillation(0).phases()] == ["predict"]


def test_what_is_asked_is_given_and_the_rest_is_written():
    codec = Bytes(8, TURNS)
    code = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, IGNORE, IGNORE, IGNORE, IGNORE]])
    assert ((begun(code, {}, codec) != IGNORE).sum(1)).tolist() == [2, 1]
    learnt = torch.tensor([[False, True, True, False, False, False, True, True], [False] * 3 + [True] + [False] * 4])
    assert ((begun(code, {"learnt": learnt}, codec) != IGNORE).sum(1)).tolist() == [1, 3]


def test_rows_are_written_once_and_some_stay_as_they_were():
    class Rows(Split):
        def rows(self, index):
            return {"code": index[:, None].expand(-1, 3).clone()}

    calls = []

    def write(batch, places):
        calls.append(places.tolist())
        return {"code": 1000 + batch["code"], "learnt": torch.ones(len(places), 3, dtype=torch.bool)}

    base = Rows({"text": ["x"] * 400})
    found = Rewritten(base, 200, write)
    assert len(found) == 200
    assert torch.equal(found.rows(torch.tensor([5, 0]))["code"], found.rows(torch.tensor([0, 5]))["code"].flip(0))
    assert [len(each) for each in calls] == [128, 72] and calls[-1][-1] == 399
    mixed = Rewritten(base, 200, write, share=0.25)
    code = mixed.all()["code"][:, 0]
    assert len(mixed) == 400 and 0.2 < float((code < 1000).float().mean()) < 0.3
    assert (code[code < 1000] == torch.arange(400)[code < 1000]).all()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A teacher of texts, one of conversations, one of other symbols, and a smaller run of the first's."""
    folder = tmp_path_factory.mktemp("teachers")
    (folder / "text").mkdir()
    for path in sorted(Path(maquette.__file__).parent.glob("c*.py")):
        shutil.copy(path, folder / "text")
    rows = "".join(json.dumps({"prompt": f"{a}+{b}", "completion": str(a + b)}) + "\n" for a in range(9) for b in range(9))
    (folder / "sums.jsonl").write_text(rows)
    own = {"data": str(folder / "text"), "context": 24, **QUICK}
    maquette.train("gpt", out=folder / "gpt", vocab=300, depth=2, **own)
    maquette.train("gpt", out=folder / "other", vocab=310, depth=1, **own)
    maquette.train("sft", out=folder / "sft", data=str(folder / "sums.jsonl"), context=32, depth=1, **QUICK)
    maquette.train("student", out=folder / "less", run=str(folder / "gpt"), depth=1, **QUICK)
    return folder


def test_texts_of_the_teacher_are_its_own_and_only_they_are_learnt(runs):
    made = build("student", {"run": str(runs / "gpt"), "on": "samples", "pool": 6, "depth": 1, "compile": False}, 0)[0]
    system, train = made.system, made.data.train
    rows = train.all()
    places = torch.linspace(0, len(train.own) - 1, 6).round().long()
    start = begun(train.own.rows(places)["code"], {}, system.codec)
    assert torch.equal(rows["code"][start != IGNORE], start[start != IGNORE])
    assert torch.equal(rows["learnt"], distillation.answered(rows["code"], start, system.codec))
    rng = Streams.of(0, int(places.max()) + 1)[places]
    with torch.no_grad():
        *_, code = Autoregressive().draw(system.instead("teacher"), 6, start=start, rng=rng)
    assert torch.equal(rows["code"][rows["learnt"]], code[rows["learnt"]])
    loss, _ = system.objective.predict(system, rows, Streams.of(0, 6), 0)
    x = torch.cat([torch.zeros(6, 1, dtype=torch.int64), rows["code"][:, :-1].clamp(min=0)], 1)
    logits = system.nets["main"](x)[rows["learnt"]]
    assert loss.item() == pytest.approx(F.cross_entropy(logits, rows["code"][rows["learnt"]]).item(), rel=1e-4)


@pytest.mark.parametrize("on", ["logits", "samples", "own"])
def test_a_teacher_of_conversations_has_students_of_each_kind(runs, tmp_path, on):
    own = {"logits": {}, "samples": {"pool": 4}, "own": {"every": 1}}[on]
    made = maquette.train("student", out=tmp_path / "run", run=str(runs / "sft"), on=on, depth=1, **own, **QUICK)
    shown = made.system.sample(1, start=made.data.held.rows(torch.tensor([0]))["code"][:, :4])
    assert len(shown["text"]) == 1
    if on == "own":
        row = made.data.train.rows(torch.tensor([0]))
        first = int(row["learnt"][0].long().argmax())
        assert torch.equal(begun(row["code"], row, made.system.codec)[0, :first], row["code"][0, :first])
        assert '"own/length"' in (tmp_path / "run" / "log.jsonl").read_text()


def test_a_student_is_opened_and_goes_on_when_its_teacher_is_gone(runs, tmp_path):
    shutil.copytree(runs / "gpt", tmp_path / "teacher")
    maquette.train("student", out=tmp_path / "run", run=str(tmp_path / "teacher"), depth=1, **QUICK)
    before = maquette.load(tmp_path / "run").system.nets["teacher"].state_dict()
    shutil.rmtree(tmp_path / "teacher")
    again = maquette.load(tmp_path / "run").system
    assert all(torch.equal(value, again.nets["teacher"].state_dict()[name]) for name, value in before.items())
    assert sum(p.numel() for p in again.nets["main"].parameters()) < sum(p.numel() for p in again.nets["teacher"].parameters())


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"on": "logit"}, UnknownName, r"'logit'. Did you mean 'logits'\? Allowed: logits, samples, own"),
        ({"temperature": 0.0}, ValueError, "temperature is 0.0; it must be above 0"),
        ({"beta": 1.5}, ValueError, "beta is 1.5; it must lie in 0 .. 1, nearest is 1"),
        ({"share": -0.5}, ValueError, "share is -0.5.*nearest is 0"),
        ({"on": "own", "every": 0}, ValueError, "every is 0; it must be 1 or more"),
        ({"on": "samples", "pool": 0}, ValueError, "pool is 0"),
        ({"begin": "{}/other"}, ValueError, "300 symbols in run .*, 310 in begin .*/other"),
        ({"begin": "{}/sft"}, ValueError, "a student reads as its teacher does"),
        ({"context": 500}, ValueError, "context is 500"),
        ({"data": "digits"}, ValueError, "student models text, and data 'digits' holds image"),
        ({"run": "", "on": "samples"}, ValueError, "on is samples, and there is no run"),
        ({"run": "", "depth": 5}, ValueError, "depth is 5, of a student whose teacher has 4 blocks"),
        ({"run": "", "start": 0}, ValueError, "start is 0"),
    ],
)
def test_what_no_student_can_learn_by_is_refused(runs, given, error, said):
    told = {"run": str(runs / "gpt"), **{k: v.format(runs) if isinstance(v, str) else v for k, v in given.items()}}
    with pytest.raises(error, match=said):
        build("student", told, 0)


def test_it_may_begin_as_another_run_of_the_same_symbols(runs):
    made = build("student", {"run": str(runs / "gpt"), "begin": str(runs / "less")}, 0)[0]
    less = maquette.load(runs / "less").system.nets["main"].state_dict()
    assert all(torch.equal(value, less[name]) for name, value in made.system.nets["main"].state_dict().items())
    assert made.system.learners(made.system.objective.phases()[0]).keys() == {"main"}
