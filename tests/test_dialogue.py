"""A model that answers, rates its answers and calls a calculator: what is written for it, what is ranked, what data rate."""

from __future__ import annotations

import math

import pytest
import torch

from maquette import recipes
from maquette.codecs.text import BPE, TURNS, Bytes
from maquette.contracts import IGNORE
from maquette.data import open_data
from maquette.data.dialogues import QUALITIES, grounded, rated
from maquette.data.ratings import NO, YES, Rated, judging, marks
from maquette.networks.transformer import Transformer
from maquette.objectives.likelihood import NextToken
from maquette.samplers import ranked
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.ranked import Ranked
from maquette.samplers.rules import Rules
from maquette.samplers.tools import worked_out
from maquette.system import System

BOXES = "347 boxes hold 28 pens each. How many pens is that?"
SPECIAL = (*TURNS, *marks(QUALITIES))


def system(codec=None, sampler=None) -> System:
    torch.manual_seed(0)
    codec = codec or Bytes(64, SPECIAL)
    net = Transformer(codec.vocab, 16, 2, 2)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return System({"main": net}, NextToken(codec.bos), sampler or Autoregressive(), codec).eval()


@pytest.mark.parametrize(
    ("asked", "made"),
    [("347*28", "9716"), ("-3+2", "-1"), ("(2+3)*4", "20"), ("5/2", "5/2"), ("6/3", "2"), (" 1 + 1 ", "2")]
    + [(bad, None) for bad in ("2**9", "1/0", "", "3*", "(2", "07", "9" * 15 + "*9", "2//3", "a")],
)
def test_a_calculator_works_out_whole_numbers_and_nothing_else(asked, made):
    assert worked_out(asked) == made


@pytest.mark.parametrize(
    ("asked", "said", "is_", "right"),
    [
        (BOXES, "<<347*28=9716>>It is 9716 pens.", "sensible specific safe", True),
        (BOXES, "<<347*28=9716>>It is 9716 pens. That is an even number.", "sensible specific interesting safe", True),
        (BOXES, "<<347*28=9716>>It is 9176 pens.", "sensible specific safe", False),
        (BOXES, "<<347+28=375>>It is 375 pens.", "specific safe", False),
        (BOXES, "<<347*28=9716>>It is 9716 cups.", "safe", True),
        (BOXES, "I do not know.", "sensible safe", False),
        (BOXES, "What a stupid question.", "", False),
        ("Where does Ada live, at number 300?", "Ada lives in Mill Lane.", "sensible specific", None),
        ("Where does Ada live, at number 300?", "I never give away where somebody lives.", "sensible specific safe", None),
        ("What is love?", "I do not know.", "safe", None),
    ],
)
def test_the_rule_rates_as_raters_were_asked_to(asked, said, is_, right):
    assert {name for name, has in rated(asked, said).items() if has} == set(is_.split())
    assert grounded(asked, said) is right


def test_of_an_answer_that_was_rated_nothing_is_learnt_but_yes_or_no_behind_each_quality():
    codec = Bytes(256, SPECIAL)
    rows = Rated(open_data("dialogues").train, codec, 256, QUALITIES)
    half = len(rows.written) // 2
    first = set()
    for place in range(16):
        told, kept = rows.written[half + place], rows.written[place]
        assert told.place == kept.place == place and told.said == [False] * (len(told.said) - 8) + [False, True] * 4
        asked = [codec.join([symbol], special=True).strip("<|>") for symbol in told.symbols[-8::2]]
        first.add(asked[0])
        says = rated(str(rows.columns["source"][place]), str(rows.columns["other"][place]))
        assert told.symbols[-7::2] == [codec.special[YES if says[quality] else NO] for quality in asked]
    assert first == {*QUALITIES}  # each may be asked first
    assert len(rows.talks) == half  # a rating is no answer to be compared with


@pytest.mark.parametrize("codec", [Bytes(64, SPECIAL), BPE(300 + len(SPECIAL), 64, SPECIAL)], ids=["bytes", "bpe"])
def test_what_is_called_for_is_worked_out_whatever_the_network_would_write(codec):
    if isinstance(codec, BPE):
        codec.learn(["<<12*3=36>> it is", "<<4+5=9>>", "97 167 9716 what is it"] * 9)
    made = system(codec)
    prompts = ["<<347*28=", "so <<1/0=", "<<2+2=4>> and <<97", "no call ="]
    start = torch.nn.functional.pad(codec.filled(codec.tokenize(prompts)), (0, 14), value=IGNORE)

    def texts(tools):
        return codec.decode(made.sample(4, start=start, seed=3, sampler=Autoregressive(rules=Rules(tools=tools)))["code"])

    with_, without = texts("calculator"), texts("")
    assert with_[0].startswith("<<347*28=9716>>") and not without[0].startswith("<<347*28=9716>>")
    assert with_[1:] == without[1:]  # nothing to be worked out
    cut = torch.nn.functional.pad(codec.filled(codec.tokenize(["<<347*28=97"])), (0, 14), value=IGNORE)
    half = made.sample(1, start=cut, seed=0, sampler=Autoregressive(rules=Rules(tools="calculator")))["code"]
    assert codec.decode(half)[0].startswith("<<347*28=9716>>")


def test_tools_that_are_none_are_refused():
    with pytest.raises(ValueError, match="tools is 'abacus'; allowed are '' \\(none\\) and 'calculator'"):
        Rules(tools="abacus")
    with pytest.raises(ValueError, match="regex is given, which holds all of a text, and tools"):
        Rules(tools="calculator", regex="a+")


@torch.no_grad()
def test_a_rating_is_what_the_network_says_of_yes_and_no_behind_the_answers_end():
    made = system()
    codec, over = made.codec, made.codec.special["<|over|>"]
    rows = [[*b"hi", over], [*b"a longer one", over], [*b"cut off"]]
    code = torch.nn.functional.pad(codec.filled(rows), (0, 2), value=codec.bos)
    code[code == IGNORE] = codec.bos  # as samplers leave what lies behind an end
    code[2, 7:] = IGNORE
    found = ranked.rated(made, code, torch.zeros_like(code, dtype=torch.bool), ("safe", "specific"))
    for name, chances in found.items():
        for row, chance in zip(rows, chances.tolist(), strict=True):
            read = torch.tensor([[codec.bos, *row, codec.special[f"<|{name}|>"]]])
            logits = made.nets["main"](read)[0, -1]
            odds = float(logits[codec.special[YES]] - logits[codec.special[NO]])
            assert chance == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-4)
    with pytest.raises(ValueError, match="quality is 'sane', and this run rates none"):
        judging(codec, code, torch.tensor([1, 1, 1]), "sane")
    with pytest.raises(ValueError, match="this run rates no answers"):
        ranked.rated(system(Bytes(64)), code, code < 0, ("safe",))


def test_what_is_not_safe_falls_away_and_the_best_of_the_others_stays(monkeypatch):
    """Of answers rated by hand, in groups of four."""
    safe = torch.tensor([0.9, 0.2, 0.6, 0.7, 0.1, 0.3, 0.2, 0.4])
    sensible = torch.tensor([0.1, 1.0, 0.5, 0.4, 0.9, 0.0, 0.9, 0.0])
    specific = torch.tensor([0.9, 1.0, 0.1, 0.3, 0.9, 0.0, 0.9, 0.0])
    chances = {"safe": safe, "sensible": sensible, "specific": specific, "interesting": torch.zeros(8)}
    monkeypatch.setattr(ranked, "rated", lambda system, code, known, qualities, cond: {name: chances[name] for name in qualities})
    made, sampler = system(), Ranked(of=4)
    worth = sampler.worth(made, torch.zeros(8, 3, dtype=torch.int64), torch.zeros(8, 3, dtype=torch.bool), None).view(2, 4)
    assert worth.argmax(1).tolist() == [2, 3]  # 1.6 of the safe ones; where none is safe, the safest
    drafts = list(Autoregressive(length=6).draw(made, 8, rng=_streams(made)))
    assert len(drafts) and [*sampler.draw(made, 2, rng=_streams(made, 2))][-1].shape[0] == 2


def _streams(made: System, n: int = 8):
    from maquette.streams import Streams

    return Streams.of(0, n)


def test_lamda_learns_from_rated_answers_alone():
    with pytest.raises(ValueError, match="data 'instructions' has none that say what is sensible, specific, interesting, safe"):
        recipes.find("lamda")(data="instructions")
