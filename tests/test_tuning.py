"""Fine-tuning on conversations and on preferences: what shares a row, what is learnt, what an adapter is worth merged."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from typer.testing import CliRunner

import maquette
from maquette.cli import app
from maquette.codecs.text import TURNS, Bytes
from maquette.contracts import Condition, Phase
from maquette.data import DataError, open_data
from maquette.data.comparisons import Comparisons, unrelated
from maquette.data.conversations import Conversations, opening, questions, replies
from maquette.data.core import Split, recall
from maquette.data.instructions import instructions
from maquette.data.manners import KIND, manners, rule
from maquette.distributed import World
from maquette.experiment import Fit
from maquette.hub.finetune import PROJECTIONS
from maquette.networks import presets
from maquette.networks.scorer import Scorer
from maquette.networks.style import LLAMA, Near, Style
from maquette.networks.transformer import Transformer, places_in
from maquette.nn.lora import Adapted, matched, merge, parted, whole
from maquette.nn.packed import Packed, quantised
from maquette.nn.positions import Alibi, Learned
from maquette.objectives.likelihood import NextToken
from maquette.objectives.preference import LOSSES, Preference, Reward
from maquette.runs import build
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System
from maquette.train import accumulate

TALKS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
    [
        {"role": "system", "content": "kind"},
        {"role": "user", "content": "<|user|>"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "so"},
        {"role": "assistant", "content": "yes"},
    ],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
]


MANNERS = manners()


class Bare(Bytes):
    """A codec of which a text begins with its own first symbol, as Qwen's."""

    begins = False


def loud(style: Style = LLAMA, vocab: int = 262, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    net = Transformer(vocab, 32, 2, 2, style=style).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net.requires_grad_(False)


# -- rows ----------------------------------------------------------------------------------------------------------------

STYLES = {
    "small": presets.small(),
    "learned places": Style(positions=partial(Learned, count=64)),
    "alibi, near": Style(positions=Alibi, near=Near(4, (True, False))),
    "ahead": Style(ahead=1),
}


@pytest.mark.parametrize("kind", [Bytes, Bare])
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_conversations_that_share_a_row_are_read_as_if_alone(kind: type[Bytes], style: Style) -> None:
    codec, net = kind(64, TURNS), loud(style)
    split = Split({"messages": TALKS})
    together, alone = (Conversations(split, codec, 64, packed) for packed in (True, False))
    assert len(together) == 1 and len(alone) == 3
    objective = NextToken(codec.bos, ahead=float(bool(style.ahead)))
    system = System({"main": net.requires_grad_(True)}, objective, None, codec).eval()
    one, each = ({k: v for k, v in rows.all().items()} for rows in (together, alone))
    with torch.no_grad():
        packed, single = (system.objective.score(system, batch, Streams.of(0, 1)) for batch in (one, each))
    torch.testing.assert_close(packed.sum(), single.sum(), rtol=1e-5, atol=1e-4)
    assert one["learnt"].sum() == each["learnt"].sum() == len("hello") + len("no") + len("yes") + len("b") + 4
    told = codec.decode(torch.where(each["learnt"], each["code"], ord("_")).masked_fill(each["code"] == -1, -1)[:, 1:])
    assert told[0].startswith("_" * 3) and "hello" not in told[1]
    # nothing that stands in the first conversation reaches the others
    x, _ = objective.shift(one["code"], one)
    other, first = x.clone(), one["document"] == 1
    other[first] = (other[first] + 1) % 256
    cond = Condition(document=one["document"])
    with torch.no_grad():
        before, after = net(x, cond=cond), net(other, cond=cond)
    assert torch.equal(before[~first], after[~first]) and not torch.equal(before[first], after[first])


def test_only_answers_are_learnt_and_spelt_symbols_are_text() -> None:
    codec = Bytes(64, TURNS)
    (symbols, said), *_ = codec.taught(TALKS[1:])
    assert codec.join([s for s, own in zip(symbols, said, strict=True) if own], special=True) == "no<|over|>yes<|over|>"
    assert symbols.count(codec.special["<|user|>"]) == 2  # the third was text
    assert codec.converse([TALKS[0][:1]])[0][-1] == codec.special["<|assistant|>"] and codec.special["<|over|>"] in codec.ends
    assert torch.equal(places_in(torch.tensor([[0, 1, 1, 1, 2, 2]])), torch.tensor([[0, 0, 1, 2, 0, 1]]))
    with pytest.raises(ValueError, match="no symbols for the turns"):
        Bytes(8).converse([TALKS[0]])
    asked, wanted = questions(TALKS)
    start = opening(codec, asked, 64)
    full = start.clone()
    for row, text in zip(full, wanted, strict=True):
        own = [*text.encode(), codec.special["<|over|>"]]
        at = int((row != -1).sum())
        row[at : at + len(own)] = torch.tensor(own)
    assert replies(codec, full, start) == wanted == ["hello", "yes", "b"]


def test_rows_are_full_and_too_long_ones_are_counted() -> None:
    data = instructions()
    rows = Conversations(data.train, Bytes(128, TURNS), 128)
    used = [sum(len(rows.written[i][1]) + 1 for i in pack) for pack in rows.packs]
    assert sorted(i for pack in rows.packs for i in pack) == list(range(len(data.train)))
    assert max(used) <= 129 and sum(used) > 0.97 * 129 * len(used)
    with pytest.raises(DataError, match=r"of \d+ conversations cannot be learnt: .* more than 8 symbols.*--context \d+"):
        len(Conversations(data.train, Bytes(8, TURNS), 8))


def test_instructions_hold_out_pairs_of_changes() -> None:
    data = instructions()
    train, held = ({*zip(s.columns["source"], s.columns["text"], strict=True)} for s in (data.train, data.held))
    assert ("Write lamp backwards.", "pmal") in train | held and not train & held
    assert not any("twice, then without" in source for source, _ in train)
    assert sum("twice, then without" in source for source, _ in held) > 50
    assert not {s.partition(" ")[2] for s, _ in train} & {s.partition(" ")[2] for s, _ in held}


BAD = {
    r"a.jsonl:2: message 0 has the 'role' 'human'; allowed are system, .*": [{"role": "human", "content": "x"}],
    r"a.jsonl:2: message 1 is out of order: its 'role' is 'user', behind one of 'user'": [TALKS[0][0], TALKS[0][0]],
    r"a.jsonl:2: message 1, the assistant's, has an empty 'content'": [TALKS[0][0], {"role": "assistant", "content": " \n"}],
    r"a.jsonl:2: message 1 is out of order: its 'role' is 'system'": [TALKS[0][0], {"role": "system", "content": "x"}],
    r"a.jsonl:2: message 1 has no 'content'": [TALKS[0][0], {"role": "assistant"}],
}


@pytest.mark.parametrize(("message", "turns"), BAD.items())
def test_a_bad_conversation_is_named_by_row_and_field(tmp_path: Path, message: str, turns: list[dict[str, Any]]) -> None:
    good = [{"messages": [{"role": "user", "content": str(i)}, TALKS[0][1]]} for i in range(4)]
    lines = [json.dumps(row) for row in [good[0], {"messages": turns}, *good[1:]]]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert open_data(str(tmp_path / "a.jsonl")).facts.skipped[0][0] == "a.jsonl:2"
    (tmp_path / "a.jsonl").write_text("\n".join([lines[1], lines[1], lines[0]]))
    with pytest.raises(DataError, match=message):
        open_data(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": " b"}, "are equal: neither is better"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "'rejected' is empty"),
        ({"prompt": "a", "chosen": "b"}, "has no 'rejected'"),
        ({"chosen": "b", "rejected": "c"}, "has no 'prompt'"),
        ({"prompt": "a", "chosen": 3, "rejected": "c"}, "'chosen' is a int, not a string"),
        ({"chosen": TALKS[0], "rejected": TALKS[2]}, "answer different conversations"),
    ],
)
def test_a_bad_pair_is_named_by_row(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(each) for each in [row, row, {"text": "x"}]))
    with pytest.raises(DataError, match=rf"a.jsonl:1: .*{message}"):
        open_data(str(tmp_path / "a.jsonl"))


def test_pairs_are_texts_or_conversations(tmp_path: Path) -> None:
    flat = [{"prompt": str(i), "chosen": f"{i}, yes", "rejected": f"{i}, no"} for i in range(12)]
    turned = [
        {key: [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[key]}] for key in list(row)[1:]}
        for row in flat
    ]
    found = []
    for name, made in {"flat": flat, "turned": turned}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, made)))
        data = open_data(str(tmp_path / f"{name}.jsonl"))
        assert data.facts.compares and sum(data.facts.rows.values()) == 12
        each = [Comparisons(split, Bytes(64, TURNS), 64).all()["code"] for split in data.splits.values()]
        found.append(sorted([symbol for symbol in row if symbol >= 0] for code in each for row in code.flatten(1).tolist()))
    assert found[0] == found[1]


# -- adapters ------------------------------------------------------------------------------------------------------------


def adapted(net: Transformer, **more: Any) -> Adapted:
    made = Adapted(net, matched(net, PROJECTIONS), 3, 6.0, **more)
    for name in made.names:
        factors = made.factors.get_submodule(name)
        torch.nn.init.normal_(factors.lora_B.weight, std=0.1)
        if factors.lora_magnitude_vector is not None:
            with torch.no_grad():
                factors.lora_magnitude_vector *= torch.linspace(0.8, 1.3, len(factors.lora_magnitude_vector))
    return made


@pytest.mark.parametrize("sizes", [False, True])
@torch.no_grad()
def test_a_merged_adapter_gives_its_logits_and_parted_the_bases(sizes: bool) -> None:
    net, x = loud(), torch.arange(40)[None]
    made, alone = adapted(net, sizes=sizes, fresh={"embed": 5, "head": 5}), copy.deepcopy(net)
    want, before = made(x), net(x)
    changes = {name: made.change(name) for name in made.names}
    ratios = merge(alone, changes)
    assert (
        (want - before).abs().max() > 0.1 and (alone(x) - want).abs().max() < 1e-5 and (whole(made)(x) - want).abs().max() < 1e-5
    )
    parted(alone, changes, ratios)
    assert (alone(x) - before).abs().max() < 1e-5
    if sizes:  # a change of direction alone leaves the norms where the sizes say
        name = made.names[0]
        norms = whole(made).get_submodule(name).weight.norm(dim=1)
        torch.testing.assert_close(norms, made.factors.get_submodule(name).lora_magnitude_vector)


@pytest.mark.parametrize("sizes", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_an_adapter_on_few_bits_learns_as_on_what_they_stand_for(bits: int, sizes: bool) -> None:
    base = quantised(loud(), bits)
    for p in base.parameters():  # what lies in few bits is in buffers
        p.data = p.data.float()
    made, x = adapted(base, sizes=sizes), torch.arange(40)[None]
    plain = whole(made)
    assert isinstance(base.get_submodule(made.names[0]), Packed) and not any(isinstance(m, Packed) for m in plain.modules())
    torch.testing.assert_close(made(x), plain(x), rtol=0, atol=2e-4)
    made(x).square().mean().backward()
    unchanged = whole(Adapted(base, made.names, 1))
    again = Adapted(unchanged, made.names, 3, 6.0, sizes=sizes)
    again.load_state_dict(made.state_dict())
    again(x).square().mean().backward()
    for name, p in made.named_parameters():
        torch.testing.assert_close(p.grad, dict(again.named_parameters())[name].grad, rtol=1e-3, atol=1e-4)


# -- preferences ---------------------------------------------------------------------------------------------------------


def test_the_losses_are_their_papers() -> None:
    ratio, count = torch.tensor([[0.7, -0.2], [-1.0, 0.5]]), torch.tensor([[4, 2], [5, 5]])
    sigma, apart = (lambda v: 1 / (1 + math.exp(-v))), torch.tensor(0.3)
    want = {
        "dpo": [-math.log(sigma(0.1 * 0.9)), -math.log(sigma(0.1 * -1.5))],
        "ipo": [(0.7 / 4 + 0.2 / 2 - 5) ** 2, (-1 / 5 - 0.5 / 5 - 5) ** 2],
        "kto": [(1 - sigma(0.1 * (a - 0.3)) + 1 - sigma(0.1 * (0.3 - b))) / 2 for a, b in ratio.tolist()],
    }
    for name, loss in LOSSES.items():
        torch.testing.assert_close(loss(ratio, count, 0.1, apart), torch.tensor(want[name]))
    with pytest.raises(ValueError, match="loss is 'dpp'; allowed are dpo, ipo, kto, nearest is dpo"):
        Preference(0, "dpp")
    with pytest.raises(ValueError, match="beta is 0"):
        Preference(0, beta=0)


def pairs(count: int = 6) -> Comparisons:
    data = MANNERS
    some = {name: list(column[:count]) for name, column in data.train.columns.items()}
    return Comparisons(Split(some), Bytes(128, TURNS), 128)


def test_a_policy_that_is_its_reference_has_no_reward_and_learns_the_better() -> None:
    net, rows = loud(), pairs()
    nets = {"main": copy.deepcopy(net).requires_grad_(True), "reference": net}
    system = System(nets, Preference(256, beta=0.5), None, rows.codec, frozen=("reference",))
    batch = rows.all()
    loss, logs = system.objective.prefer(system, batch, Streams.of(0, 6), 0)
    assert abs(loss.item() - math.log(2)) < 1e-6 and abs(float(logs["better"])) < 1e-5
    optimizer = torch.optim.SGD(nets["main"].parameters(), lr=3e-3)
    for _ in range(5):
        loss, logs = system.objective.prefer(system, batch, Streams.of(0, 6), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.68 and float(logs["right"]) == 1
    assert bool((system.objective.worth(system, batch).diff(dim=1) < 0).all())


def test_unrelated_answers_stand_behind_each_question() -> None:
    rows = pairs(3)
    code, said, _ = unrelated(rows.all())
    both = [*rows.columns["text"], *rows.columns["rejected"]]

    def text(chosen: torch.Tensor) -> list[str]:
        return [rows.codec.join(row[own].tolist()) for row, own in zip(code, chosen, strict=True)]

    assert text(said) == [both[-1], *both[:-1]]
    assert text(~said & (code >= 0)) == list(rows.columns["source"]) * 2


def test_of_a_longer_conversation_the_last_answer_alone_is_compared() -> None:
    before = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "earlier"}, {"role": "user", "content": "and?"}]
    talks = [[*before, {"role": "assistant", "content": text}] for text in ("good", "fine")]
    columns = {"text": ["good", "fine"], "messages": talks, "rejected": ["bad", "worse"]}
    rows = Comparisons(Split(columns), Bytes(128, TURNS), 128)
    batch = rows.all()
    learnt = [
        rows.codec.join(row[own].tolist()) for row, own in zip(*(batch[k].flatten(0, 1) for k in ("code", "learnt")), strict=True)
    ]
    assert learnt == ["good", "bad", "fine", "worse"]
    code, said, _ = unrelated(batch)
    assert [rows.codec.join(row[own].tolist()) for row, own in zip(code, said, strict=True)] == ["worse", "good", "fine", "bad"]


def test_a_judge_reads_the_last_symbol_of_an_answer_whatever_stands_behind() -> None:
    net, rows = loud().headless(), pairs()
    system = System({"main": Scorer(32), "encoder": net}, Reward(256), None, rows.codec)
    with torch.no_grad():
        together = system.objective.worth(system, rows.all())
        alone = torch.cat([system.objective.worth(system, rows.rows(torch.tensor([i]))) for i in range(len(rows))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together.std() > 1e-3


def test_a_reference_stays_behind_and_a_phase_may_go_slower() -> None:
    experiment, _ = build("dpo", {"depth": 1, "context": 96}, 0)
    system = experiment.system
    assert [p.name for p in system.objective.phases() if p.due(0)] == ["learn"]
    last = 300
    assert [(p.name, p.pace < 0.1) for p in system.objective.phases() if p.due(last)] == [("prefer", True)]
    assert system.steady("main") is system.nets["main"]
    assert isinstance(system.objective.voice, Preference)  # its capabilities are the system's
    p, r = (next(system.nets[name].parameters()) for name in ("main", "reference"))
    for step, follows in ((0, True), (last, False)):
        system.age.fill_(step)
        with torch.no_grad():
            p.add_(1)
        before = r.clone()
        system.advance()
        assert torch.equal(before, r) is not follows
    assert not Phase("x", (), 1, lambda: None, since=3).due(2) and Phase("x", (), 1, lambda: None, since=3).due(3)  # type: ignore[arg-type, return-value]


def test_a_rule_knows_the_better_answer() -> None:
    asked = "Please write lamp backwards."
    worth = [rule(asked, text) for text in ("Gladly: pmal.", "pmal", "pmal!", "Ugh, pmal", f"{KIND[0]}{KIND[0]}pmal", "lamp")]
    assert worth == [3, 2, 1, 1, -1, 0]
    data = MANNERS
    told = zip(*(data.held.columns[name] for name in ("source", "text", "rejected")), strict=True)
    assert all(rule(source, better) > rule(source, worse) for source, better, worse in told)


# -- runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of gpt, which knows no turns."""
    folder = tmp_path_factory.mktemp("base")
    rows = [{"prompt": f"{a} + {b}", "completion": str(a + b)} for a in range(15) for b in range(15)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"data": str(folder / "rows.jsonl"), "depth": 1, "vocab": 300, "context": 32, "compile": False, "batch": 8}
    maquette.train("gpt", steps=2, out=folder / "gpt", quiet=True, **given)
    return folder


def test_a_run_is_given_turns_and_is_what_it_was_before_it_learns(base: Path) -> None:
    given = {"run": str(base / "gpt"), "data": str(base / "rows.jsonl"), "rank": 2}
    experiment, _ = build("sft", given, 0)
    was, now = maquette.load(base / "gpt", device="cpu").system, experiment.system.eval()
    x = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(now.nets["main"](x)[..., :300], was.nets["main"](x)[..., :300])
    assert now.codec.vocab == 305 and now.codec.special["<|over|>"] == 304 and now.codec.converses
    assert now.codec.tokenize(["4 + 5"]) == was.codec.tokenize(["4 + 5"])


def test_a_tuned_run_answers_and_is_tuned_on(base: Path) -> None:
    rows = str(base / "rows.jsonl")
    given = {"data": rows, "steps": 2, "batch": 8, "quiet": True}
    maquette.train("sft", run=str(base / "gpt"), rank=2, dora=True, out=base / "sft", **given)
    told = CliRunner().invoke(app, ["sample", str(base / "sft"), "--chat", "4 + 5", "-n", "2", "--json", "--set", "length=4"])
    assert told.exit_code == 0, told.output
    assert len(json.loads(told.stdout)["text"]) == 2
    found = maquette.load(base / "sft", device="cpu")
    assert found.sample(1, chat=[{"role": "user", "content": "4 + 5"}])["text"] == found.sample(1, chat="4 + 5")["text"]
    with pytest.raises(ValueError, match=r"symbols, .* more than the 31 that leave room"):
        found.sample(1, chat="x" * 99)
    with pytest.raises(ValueError, match="cannot be answered: message 1 is out of order"):
        found.sample(1, chat=[TALKS[0][0], TALKS[0][0]])
    with pytest.raises(ValueError, match="chat and prompt are given, and both say"):
        found.sample(1, chat="hi", prompt="ho")
    with pytest.raises(ValueError, match="not to end with --suffix 'b'"):
        maquette.sample(base / "sft", 1, chat="a", suffix="b", device="cpu")
    with pytest.raises(ValueError, match="knows no turns"):
        maquette.load(base / "gpt", device="cpu").sample(1, chat="hi")
    judged = [{"prompt": f"{a} + 1", "chosen": str(a + 1), "rejected": "no"} for a in range(60)]
    (base / "pairs.jsonl").write_text("\n".join(map(json.dumps, judged)))
    given |= {"data": str(base / "pairs.jsonl"), "run": str(base / "sft"), "rank": 2}
    maquette.train("reward", out=base / "judge", **given)
    best, plain = (
        maquette.sample(base / "sft", 2, chat="4 + 5", dials={"length": 4}, best_of=of, judge=judge, device="cpu")
        for of, judge in ((6, base / "judge"), (1, ""))
    )
    assert len(best["text"]) == len(plain["text"]) == 2 and best["worth"].shape == (2,)
    with pytest.raises(ValueError, match="no use for what --about"):
        maquette.sample(base / "sft", 1, chat="a", about={"label": 3}, best_of=2, judge=base / "judge", device="cpu")
    words = [
        "sample",
        str(base / "sft"),
        "--chat",
        "4 + 5",
        "-n",
        "1",
        "--best-of",
        "2",
        "--judge",
        str(base / "judge"),
        "--print",
    ]
    with mock.patch("maquette.api.sample", lambda *_, tell, **__: {"text": ["nine"]} if tell is None else {"text": []}):
        assert "nine" in CliRunner().invoke(app, words).stdout  # not told piece by piece: which is kept is known at the end
    tuned = maquette.train("dpo", loss="kto", bits=8, out=base / "dpo", **given)
    assert tuned.system.frozen == ("reference", "codec")
    told = maquette.evaluate(base / "dpo", n=20, only=["preferred", "winning", "exact"], device="cpu")
    assert {"preference accuracy", "KL to reference"} <= told["metrics"].keys() and "exact" in told["skipped"]
    with pytest.raises(ValueError, match="which judges no answers"):
        maquette.sample(base / "sft", 1, chat="4 + 5", best_of=2, judge=base / "gpt", device="cpu")


def test_what_cannot_be_tuned_is_refused(base: Path) -> None:
    run = str(base / "gpt")
    for given, message in (
        ({"run": run, "rank": 0, "bits": 8}, "bits is 8, and rank is 0"),
        ({"run": run, "bits": 5}, "bits is 5; allowed are 0"),
        ({"run": run, "rank": -1}, "rank is -1"),
        ({"run": run, "rank": 0, "alpha": 4.0}, "alpha is 4.0, and rank is 0"),
        ({"run": run, "depth": 3}, "depth is 3, which does nothing in sft with a run; leave it out"),
        ({"rank": 4}, "rank is 4, which does nothing in sft without a run"),
        ({"adapter": "nowhere"}, "adapter is 'nowhere', which does nothing in sft without a run"),
        ({"run": run, "context": 99}, "context is 99; .* reads 1 .. 32 symbols"),
        ({"data": "stdlib"}, "learns from conversations, and data 'stdlib' has none"),
    ):
        with pytest.raises(ValueError, match=message):
            build("sft", {"data": str(base / "rows.jsonl"), **given}, 0)
    with pytest.raises(ValueError, match=r"dpo learns from pairs of answers, and data .* has none"):
        build("dpo", {"data": str(base / "rows.jsonl")}, 0)
    for name, given, message in (
        (
            "student",
            {"on": "samples", "run": run, "temperature": 2.0},
            "temperature is 2.0, which does nothing in student on samples",
        ),
        ("student", {"on": "logits", "run": run, "every": 2}, "every is 2, which does nothing in student on logits"),
        ("dpo", {"dora": True}, "dora is True, which does nothing in dpo without a run"),
        ("reasoner", {"run": run, "start": 9}, "start is 9, which does nothing in reasoner with a run"),
    ):
        with pytest.raises(ValueError, match=message):
            build(name, given, 0)
    with recall(MANNERS.facts):  # a run that was begun so before is still opened
        assert build("dpo", {"dora": True}, 0)[1] == {"dora": True}
    assert replace(build("sft", {}, 0)[0].fit, steps=1).steps == 1


# -- parts of a batch ------------------------------------------------------------------------------------------------


def test_parts_of_a_batch_count_by_what_they_teach_and_not_by_their_rows():
    """Micro-batches and ranks of unlike answers have together the gradient of the whole batch."""
    torch.manual_seed(0)
    net = Transformer(20, 16, 1, 2)
    system = System({"main": net}, NextToken(0), Autoregressive(), Bytes(12))
    code, learnt = torch.randint(1, 20, (8, 12)), torch.rand(8, 12) < torch.linspace(0.05, 0.9, 8)[:, None]
    (phase,), streams, fit = system.objective.phases(), Streams.of(0, 8), Fit(batch=8)
    parts = [{"code": code[rows], "learnt": learnt[rows]} for rows in torch.arange(8).split(2)]

    def slope(batches, world, streams):
        net.zero_grad()
        loss = accumulate(system, phase, batches, streams, 0, fit, {}, world)
        return loss, [p.grad.clone() for p in net.parameters() if p.grad is not None]

    class Two(World):
        def mean_(self, tensors):
            for tensor in tensors:
                tensor.copy_(learnt.sum() / 2)

    loss, whole = slope([{"code": code, "learnt": learnt}], World(), streams)
    apart = slope(parts, World(), streams)
    ranks = [slope(parts[:2], Two(), streams[:4]), slope(parts[2:], Two(), streams[4:])]
    torch.testing.assert_close(apart, (loss, whole))
    torch.testing.assert_close([(a + b) / 2 for a, b in zip(ranks[0][1], ranks[1][1], strict=True)], whole)
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, loss)
