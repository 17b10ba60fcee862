"""How symbols are chosen: each dial against the reference library's, stop strings to the character, grammars that are kept."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from maquette.codecs.text import BPE, Bytes
from maquette.contracts import IGNORE, Network
from maquette.dials import described, dials_of, turned
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.objectives.likelihood import NextToken
from maquette.recipes import UnknownName
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.beam import Beam
from maquette.samplers.choosing import Penalties
from maquette.samplers.contrastive import Contrastive
from maquette.samplers.rules import Rules
from maquette.samplers.speculative import Another, Speculative
from maquette.samplers.thinking import Thinking, Thought
from maquette.system import System
from maquette.wording import spoken

TEXTS = ['def add(a, b):\n    return a + b\n\n{"name": "ok", "count": 12}\n'] * 20


def loud(network: Transformer, seed: int = 0, std: float = 0.3) -> Transformer:
    """Weights far from their quiet start, so that every path matters."""
    torch.manual_seed(seed)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=std)
    return network.eval()


def bpe(vocab: int = 300, length: int = 48) -> BPE:
    codec = BPE(vocab, length)
    codec.learn(TEXTS)
    return codec


def writer(sampler, codec=None, seed: int = 0, **how) -> System:
    """A tiny random language model of real texts."""
    codec = codec or bpe()
    network = loud(Transformer(codec.vocab, 16, 1, 2, style=Style(smear=True), **how), seed)
    return System({"main": network}, NextToken(codec.bos), sampler, codec).eval()


# -- dials against transformers' processors ---------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [50, 5000])
@pytest.mark.parametrize(
    ("how", "names"),
    [
        ({"temperature": 0.7}, [("TemperatureLogitsWarper", 0.7)]),
        ({"top_k": 7}, [("TopKLogitsWarper", 7)]),
        ({"top_p": 0.6}, [("TopPLogitsWarper", 0.6)]),
        ({"top_p": 0.999}, [("TopPLogitsWarper", 0.999)]),
        ({"min_p": 0.1}, [("MinPLogitsWarper", 0.1)]),
        ({"typical": 0.4}, [("TypicalLogitsWarper", 0.4)]),
        ({"typical": 0.95}, [("TypicalLogitsWarper", 0.95)]),
        (
            {"temperature": 1.3, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
            [("TemperatureLogitsWarper", 1.3), ("TopKLogitsWarper", 40), ("TopPLogitsWarper", 0.8), ("MinPLogitsWarper", 0.02)],
        ),
    ],
)
def test_what_is_left_is_what_transformers_leaves(how, names, vocab):
    generation = pytest.importorskip("transformers").generation.logits_process
    logits = 2 * torch.randn(20, vocab, generator=torch.Generator().manual_seed(0))
    want = logits
    for name, value in names:
        want = getattr(generation, name)(value)(None, want)
    got = Autoregressive(**how).trim(logits)
    unlike = (got.isinf() != want.isinf()) * logits.softmax(-1)  # sums of 5,000 chances in float32, from above and from below
    assert float(unlike.sum(1).max()) < 1e-5 and bool(got.isfinite().any(1).all())
    torch.testing.assert_close(got.softmax(-1), want.softmax(-1), rtol=1e-4, atol=1e-5)


def test_repetition_is_penalised_as_transformers_does():
    generation = pytest.importorskip("transformers").generation.logits_process
    logits = torch.randn(6, 30, generator=torch.Generator().manual_seed(0))
    past = torch.randint(30, (6, 12), generator=torch.Generator().manual_seed(1))
    want = generation.RepetitionPenaltyLogitsProcessor(1.7)(past, logits)
    got = Penalties(repetition=1.7).take(logits, past, torch.ones_like(past, dtype=torch.bool))
    torch.testing.assert_close(got, want)


def test_presence_and_frequency_count_what_was_written_and_not_the_prompt():
    past, known = torch.tensor([[3, 3, 1, 1, 1, 2]]), torch.tensor([[True, True, False, False, False, False]])
    got = Penalties(presence=0.5, frequency=0.25).take(torch.zeros(1, 5), past, known)
    torch.testing.assert_close(got, torch.tensor([[0, -1.25, -0.75, 0, 0]]))


@pytest.mark.parametrize("p", [0.3, 0.9])
def test_equals_at_the_edge_stay_or_go_by_their_number(p):
    """Half-precision logits are full of equals; which of them stay must not depend on the other rows of a batch."""
    logits = (2 * torch.randn(8, 6000, generator=torch.Generator().manual_seed(0))).bfloat16().float()
    ranked, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = ranked.cumsum(-1) - ranked
    want = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before < p)
    together = Autoregressive(top_p=p).trim(logits).isfinite()
    assert torch.equal(together, want)
    assert all(torch.equal(Autoregressive(top_p=p).trim(logits[i : i + 1]).isfinite()[0], together[i]) for i in range(8))


def test_a_bias_decides_and_forbids():
    codec = bpe()
    brace = int(codec.encode(["{"])[0, 0])
    system = writer(Autoregressive(rules=Rules(bias={"{": 1000.0}), length=6), codec)
    assert system.sample(3)["code"].tolist() == [[brace] * 6] * 3
    never = {i: -float("inf") for i in range(codec.vocab) if i not in (5, 6)}
    assert set(writer(Autoregressive(rules=Rules(bias=never), length=30), codec).sample(2)["code"].flatten().tolist()) == {5, 6}
    with pytest.raises(ValueError, match="'zq', which is 2 symbols"):
        writer(Autoregressive(rules=Rules(bias={"zq": 1.0})), codec).sample(1)
    with pytest.raises(ValueError, match=r"bias names symbol 300; this run has 0 \.\. 299"):
        writer(Autoregressive(rules=Rules(bias={"300": 1.0})), codec).sample(1)


SOME = {
    "typical": {"typical": 0.6},
    "penalties": {"penalties": Penalties(1.3, 0.4, 0.2)},
    "bias": {"rules": Rules(bias={" a": 2.0, 0: -2.0})},
    "stop": {"rules": Rules(stop=("e", "1"))},
    "regex": {"rules": Rules(regex="(ab|c)[0-9 ]{3,30}")},
    "schema": {"rules": Rules(schema='{"type": "array", "items": {"type": "boolean"}, "maxItems": 9}')},
    "greedy": {"temperature": 0.0, "penalties": Penalties(1.3)},
}


@pytest.mark.parametrize("name", SOME)
def test_a_text_never_depends_on_its_batch(name):
    system = writer(Autoregressive(**SOME[name]))
    start = torch.full((4, 30), IGNORE)
    start[1, :4] = 70
    start[2, :9] = torch.arange(80, 89)
    together = system.sample(4, seed=2, start=start)
    for i in range(4):
        alone = system.sample(1, seed=2, first=i, start=start[i : i + 1])
        assert alone["text"] == together["text"][i : i + 1]


# -- stop strings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [Bytes(60), bpe(length=60)], ids=["bytes", "bpe"])
@pytest.mark.parametrize("stop", [("e",), ("n a",), ("rn", "zzz"), ("\n", "a"), ('"', "é")])
def test_a_sample_ends_before_its_stop_string(codec, stop):
    system = writer(Autoregressive(), codec)
    free = system.sample(24, seed=1)["text"]
    held = system.sample(24, seed=1, sampler=Autoregressive(rules=Rules(stop=stop)))["text"]
    for whole, text in zip(free, held, strict=True):
        places = [whole.find(one) for one in stop if one in whole]
        assert text == (whole[: min(places)] if places else whole)
    assert len(stop[0]) > 1 or any(a != b for a, b in zip(free, held, strict=True))


def test_a_stop_string_within_one_symbol_or_over_several_leaves_what_stands_before_it():
    codec = bpe(400, 60)
    symbol = next(s for s in range(codec.vocab) if len(codec.join([s])) >= 4 and codec.join([s]).isascii())
    spelled = codec.join([symbol])
    say = lambda text: dict.fromkeys(codec.tokenize([text])[0], 1000.0)  # noqa: E731
    inside = Rules(stop=(spelled[1:3],), bias={symbol: 1000.0})
    assert writer(Autoregressive(rules=inside), codec).sample(2)["text"] == [spelled[:1]] * 2
    over = Rules(stop=(spelled[-1] + spelled[0],), bias=say(spelled) if len(codec.tokenize([spelled])[0]) == 1 else {symbol: 1e3})
    assert writer(Autoregressive(rules=over), codec).sample(1)["text"] == [spelled[:-1]]


def test_a_stop_string_in_the_prompt_ends_nothing():
    system = writer(Autoregressive(rules=Rules(stop=("b",), bias={"c": 1000.0}), length=12), Bytes(12))
    assert system.sample(1, start=system.codec.encode(["abab"]))["text"] == ["abab" + "c" * 8]


def test_what_comes_behind_a_stop_string_is_not_paid_for():
    system = writer(Autoregressive(rules=Rules(stop=("cc",), bias={"c": 1000.0})), Bytes(40))
    assert len(list(system.stream(3))) == 3  # two symbols, and the text without them


# -- grammars --------------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "kind": {"enum": ["cat", "dog"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "kind", "count", "tags"],
    "additionalProperties": False,
}
LARK = 'start: "(" start ")" | "x"'


def fits(value) -> bool:
    return (
        list(value) == ["name", "kind", "count", "tags"]
        and (len(value["name"]) <= 5 and value["kind"] in ("cat", "dog") and 0 <= value["count"] <= 99)
        and (len(value["tags"]) <= 3 and all(isinstance(tag, bool) for tag in value["tags"]))
    )


@pytest.mark.parametrize("codec", [Bytes(160), bpe(length=160)], ids=["bytes", "bpe"])
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_an_untrained_model_keeps_to_a_schema(codec, temperature):
    pytest.importorskip("llguidance")
    system = writer(Autoregressive(temperature, rules=Rules(schema=json.dumps(SCHEMA))), codec)
    texts = system.sample(12, seed=3)["text"]
    assert all(fits(json.loads(text)) for text in texts)
    assert temperature == 0 or len(set(texts)) == 12


@pytest.mark.parametrize("codec", [Bytes(40), bpe(length=40)], ids=["bytes", "bpe"])
def test_an_untrained_model_keeps_to_a_regular_expression_and_to_a_grammar(codec):
    pytest.importorskip("llguidance")
    regex = r"[a-c]{2,4}-[0-9]{1,3}(é|ö)"
    texts = writer(Autoregressive(rules=Rules(regex=regex)), codec).sample(16)["text"]
    assert all(re.fullmatch(regex, text) for text in texts) and len(set(texts)) > 8
    texts = writer(Autoregressive(rules=Rules(grammar=LARK, bias={"x": 2.0})), codec).sample(16)["text"]
    assert all(text == "(" * (len(text) // 2) + "x" + ")" * (len(text) // 2) for text in texts) and len(set(texts)) > 1


OPEN = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "number"}}}}
OPEN["required"] = ["a", "b"]


@pytest.mark.parametrize("codec", [Bytes(80), bpe(length=80)], ids=["bytes", "bpe"])
def test_what_could_go_on_for_ever_ends_in_time(codec):
    pytest.importorskip("llguidance")
    texts = writer(Autoregressive(rules=Rules(schema=json.dumps(OPEN))), codec).sample(6)["text"]
    assert all(isinstance(json.loads(text)["b"], list) for text in texts) and max(map(len, texts)) > 60
    texts = writer(Autoregressive(rules=Rules(regex="[a-z ]+[!?]")), codec).sample(6)["text"]
    assert all(re.fullmatch("[a-z ]+[!?]", text) for text in texts)


NEVER = {'"': -8.0, "}": -8.0, ",": -8.0}  # what would end an object by itself
CHOOSING = {
    "greedy": lambda own, _: replace(own, temperature=0.0),
    "sampled": lambda own, _: own,
    "beam": lambda own, _: Beam(6, rules=own.rules),
    "contrastive": lambda own, _: Contrastive(4, 0.6, rules=own.rules),
    "speculative": lambda own, draft: Speculative(own, Another(draft), 6),
}


@pytest.mark.parametrize("length", [20, 33, 50])
@pytest.mark.parametrize("name", CHOOSING)
def test_whoever_chooses_what_could_go_on_for_ever_ends_in_time(name, length):
    pytest.importorskip("llguidance")
    own = Autoregressive(rules=Rules(schema=json.dumps(OPEN), bias=NEVER))
    sampler = CHOOSING[name](own, writer(own, Bytes(length), 9))
    for seed in range(2):
        for text in writer(own, Bytes(length), seed).sample(2, seed=seed, sampler=sampler)["text"]:
            assert list(json.loads(text)) == ["a", "b"]


@pytest.mark.parametrize("length", [2, 3, 4, 5, 7, 9, 12])
def test_however_little_room_there_is_what_fits_is_whole_and_the_network_chooses_it(length):
    pytest.importorskip("llguidance")
    texts = writer(Autoregressive(rules=Rules(schema='{"type": "string"}', bias={'"': -8.0})), Bytes(length)).sample(16)["text"]
    assert {type(json.loads(text)) for text in texts} == {str} and (length < 3 or len(set(texts)) > 4)
    assert {text for text in writer(Autoregressive(rules=Rules(regex="yes|no")), Bytes(length)).sample(32)["text"]} == (
        {"no", "yes"} if length > 2 else {"no"}
    )


@pytest.mark.parametrize("said", ["\\n", "é", "\U0001f600"])
def test_a_text_ends_in_time_in_the_middle_of_a_character_or_behind_a_backslash(said):
    pytest.importorskip("llguidance")
    for length in range(26, 44):
        wanted = ('{"a": "' + said * 40).encode()[:length]
        system = writer(Autoregressive(0.0, rules=Rules(schema=json.dumps(OPEN))), Bytes(length))
        system.nets["main"] = Table(torch.nn.functional.one_hot(torch.tensor(list(wanted)), system.codec.vocab).float())
        assert list(json.loads(system.sample(1)["text"][0])) == ["a", "b"]


class Table(Network):
    """The same logits [T,V] for every text, place by place."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, x, *, t=None, cond=None, state=None):
        return self.logits[: x.shape[1]].expand(len(x), -1, -1)


def test_a_grammar_begins_behind_the_prompt():
    pytest.importorskip("llguidance")
    system = writer(Autoregressive(rules=Rules(regex="[0-9]{3}")))
    start = torch.full((2, 20), IGNORE)
    start[0, :3], start[1, :6] = system.codec.encode(["def"])[0, 0], 70
    for row, text in zip(start, system.sample(2, start=start)["text"], strict=True):
        assert re.fullmatch(re.escape(system.codec.decode(row[None])[0]) + "[0-9]{3}", text)


@pytest.mark.parametrize(
    ("rules", "say"),
    [
        ({"schema": "{"}, "schema is not JSON"),
        ({"schema": '{"type": "objekt"}'}, "schema cannot be kept to: .*objekt"),
        ({"regex": "[ab"}, "regex cannot be kept to: .*unclosed character class"),
        ({"grammar": "start: foo"}, 'grammar cannot be kept to: .*unknown name: "foo"'),
        ({"grammar": "start: foo", "regex": "a"}, "regex and grammar are given"),
        ({"stop": ("",)}, "at least one character"),
        ({"bias": {"a": "b"}}, "must be a number"),
        ({"bias": {"a": float("inf")}}, "bias of 'a' is inf; it must be a number .* below infinity"),
    ],
)
def test_bad_rules_are_refused_by_what_is_wrong_with_them(rules, say):
    pytest.importorskip("llguidance")
    with pytest.raises(ValueError, match=say):
        writer(Autoregressive(rules=Rules(**rules))).sample(1)


@pytest.mark.parametrize("sampler", [Autoregressive(), Autoregressive(0.0), Beam(), Speculative()])
def test_a_network_that_says_no_numbers_writes_no_text(sampler):
    system = writer(sampler)
    next(system.steady("main").parameters()).data.fill_(torch.nan)
    with pytest.raises(ValueError, match="says no numbers of what comes next: some of its weights are not finite"):
        system.sample(1)


def test_the_hottest_draws_keep_to_a_grammar():
    pytest.importorskip("llguidance")
    texts = writer(Autoregressive(1e9, rules=Rules(regex="[ab]{3}"))).sample(12)["text"]
    assert len(set(texts)) > 1 and all(re.fullmatch("[ab]{3}", text) for text in texts)
    with pytest.raises(ValueError, match=r"temperature is 0 \(greedy\) or more, not inf; nearest is 1e\+09"):
        Autoregressive(float("inf"))


# -- thinking --------------------------------------------------------------------------------------------------------


def ragged(codec, length: int = 40) -> torch.Tensor:
    """Prompts of unlike lengths."""
    start = torch.full((3, length), IGNORE)
    for row, text in zip(start, ("a:", "abcde", "ab </t> cde "), strict=True):  # a mark that was asked ends nothing
        row[: len(text)] = codec.encode([text])[0]
    return start


def test_a_spent_budget_writes_what_ends_thinking_and_nothing_else_changes():
    bounded = Autoregressive(rules=Rules(thinking=Thinking(6, closes="</t>"), bias={256: -100.0}))
    system = writer(bounded, Bytes(40))
    start = ragged(system.codec)
    plain = replace(bounded, rules=Rules(bias={256: -100.0}))
    free = system.sample(3, start=start, sampler=plain)["code"]
    made, drafts = system.sample(3, start=start), [draft for draft, _ in system.stream(3, start=start)]
    for i, known in enumerate((start != IGNORE).sum(1).tolist()):
        row = made["code"][i]
        assert torch.equal(row[: known + 6], free[i, : known + 6])
        assert bytes(row[known + 6 : known + 10].tolist()) == b"</t>"
        begun = start[i : i + 1].clone()
        begun[0, : known + 10] = row[: known + 10]
        behind = system.sample(1, first=i, start=begun, sampler=plain)["code"][0]  # what follows is drawn as behind any prompt
        assert torch.equal(behind, row)
        assert torch.equal(system.sample(1, first=i, start=start[i : i + 1])["code"][0], row)
    assert all(torch.equal(draft, made["code"][:, : draft.shape[1]]) for draft in drafts)
    told = spoken(system, made, start)
    before = torch.cat([torch.full((3, 1), 256), made["code"][:, :-1]], 1)
    with torch.no_grad():
        logs = system.nets["main"](before).log_softmax(-1).gather(2, made["code"][..., None])[..., 0]
    for i, known in enumerate((start != IGNORE).sum(1).tolist()):
        torch.testing.assert_close(torch.tensor(told["logprobs"][i]), logs[i, known:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", ["beam", "contrastive", "best_of", "speculative"])
def test_a_budget_holds_whoever_chooses(sampler):
    bounded = Autoregressive(rules=Rules(thinking=Thinking(closes="</t>"), bias={256: -100.0}))
    system = writer(bounded, Bytes(40))
    start = ragged(system.codec)
    made = system.sample(3, start=start, sampler=turned(bounded, {"sampler": sampler, "budget": "6"}))["code"]
    for row, known in zip(made, (start != IGNORE).sum(1).tolist(), strict=True):
        assert bytes(row[known + 6 : known + 10].tolist()) == b"</t>"


def test_a_mark_that_is_begun_is_gone_on_with_and_one_that_is_written_is_not_written_again():
    codec = Bytes(40)
    say = Thought(writer(Autoregressive(), codec), Thinking(3, closes=" ="))
    texts = ["q1+1", "q1+ ", "q12+ ", "q1 =3", "q  =3", "q=  ", "q1"]
    next_ = [" ", "=", "=", "", "", "=", ""]
    for text, want in zip(texts, next_, strict=True):
        code = codec.encode([text + "?"])
        known = torch.zeros_like(code, dtype=torch.bool)
        known[:, 0] = True
        kept = say(torch.zeros(1, codec.vocab), code, len(text), known)[0].isfinite().nonzero()[:, 0].tolist()
        assert kept == ([ord(want)] if want else list(range(codec.vocab))), text


def test_of_answers_that_are_tries_the_one_at_hand_is_the_last_or_another_follows():
    codec = Bytes(40)
    system = writer(Autoregressive(), codec)
    logits, code = torch.randn(2, codec.vocab, generator=torch.Generator().manual_seed(0)), codec.encode(["a;b", "abc"])
    known = torch.zeros_like(code, dtype=torch.bool)
    spent = Thought(system, Thinking(2, again=";"))(logits.clone(), code, 2, known)
    assert (spent.isfinite().sum(1) == codec.vocab - 1).all() and (spent[:, ord(";")] == -torch.inf).all()
    assert torch.equal(Thought(system, Thinking(3, again=";"))(logits.clone(), code, 2, known), logits)
    longer = Thought(system, Thinking(waits=1, again=";"))(logits.clone(), code, 2, known)
    assert torch.equal(longer[0], logits[0])  # it has gone on once
    was, now = logits[1].softmax(0), longer[1].softmax(0)
    assert float(now[256]) == 0
    torch.testing.assert_close(now[ord(";")], was[ord(";")] + was[256])
    torch.testing.assert_close(now[:59], was[:59])


@pytest.mark.parametrize(
    ("thinking", "rules", "say"),
    [
        ({"budget": 3}, {}, "</think> is no symbol of it"),
        ({"budget": -2}, {}, r"budget is symbols of thinking, -1 \(as many as it likes\) or more, not -2"),
        ({"waits": 1}, {}, "name it: again=Wait"),
        ({"waits": 1, "again": "Wait"}, {}, "again, 'Wait', is 4 symbols"),
        ({"waits": 1, "again": ";", "closes": "</t>"}, {}, "closes, '</t>', is 4 symbols"),
        ({"budget": 3, "closes": "="}, {"regex": "a"}, "regex is given, which holds all of a text"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(thinking, rules, say):
    with pytest.raises(ValueError, match=say):
        writer(Autoregressive(rules=Rules(thinking=Thinking(**thinking), **rules)), Bytes(40)).sample(1)


def test_a_symbol_that_ends_thinking_is_found():
    codec = Bytes(12, ("</think>",))
    made = writer(Autoregressive(rules=Rules(thinking=Thinking(3))), codec).sample(4)["code"]
    ended = (made[:, :3] == codec.bos).any(1)
    assert ((made[:, 3] == codec.special["</think>"]) | (made[:, :3] == codec.special["</think>"]).any(1) | ended).all()


# -- flat on the command line ----------------------------------------------------------------------------------------


def test_dials_of_parts_stand_beside_their_samplers():
    plain = Autoregressive(temperature=0.8)
    made = turned(plain, {"repetition": "1.2", "stop": "x", "bias": '{"5": -2}', "top_k": "3"})
    assert made == replace(plain, top_k=3, penalties=Penalties(1.2), rules=Rules(stop=("x",), bias={"5": -2}))
    assert described(made)["repetition"] == 1.2 and json.loads(json.dumps(described(made)))["stop"] == ["x"]
    assert turned(made, {"stop": ("a", "b")}).rules.stop == ("a", "b")
    with pytest.raises(UnknownName, match="Did you mean 'repetition'"):
        turned(plain, {"repetitions": 2})
    with pytest.raises(ValueError, match=r"repetition is above 0; 1 changes nothing, not -1\.0"):
        turned(plain, {"repetition": -1})
    assert dials_of(None) == {}


class Lines(Bytes):
    """Texts that end with their line, and begin with a symbol that ends none."""

    @property
    def ends(self):
        return (10, 11)


@pytest.mark.parametrize("sampler", ["autoregressive", "beam", "contrastive", "best_of", "speculative"])
def test_rules_hold_where_what_ends_a_text_is_not_what_begins_one(sampler):
    pytest.importorskip("llguidance")
    system = writer(Autoregressive(rules=Rules(regex="[a-d]{4,9}", stop=("d",))), Lines(16))
    texts = system.sample(4, sampler=turned(system.sampler, {"sampler": sampler}))["text"]
    assert all(re.fullmatch("[a-c]{0,9}", text) for text in texts)
