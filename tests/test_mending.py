"""Programs that are broken, told what went wrong, and written again; and what counting pieces of programs comes to."""

from __future__ import annotations

import ast
import json
import random
from collections import Counter
from typing import Any

import pytest
import torch
from test_code import Reciting

from maquette import api
from maquette.baselines import programmed
from maquette.codecs.text import Bytes
from maquette.data import Facts, Split, functions, open_data, repairs, tested
from maquette.data.core import text_data
from maquette.data.infilling import Holes
from maquette.data.mutants import mutant
from maquette.evaluate import choose, judge
from maquette.mending import check_mending, examples_of, mended
from maquette.metrics import passing, repaired, testing
from maquette.metrics.evidence import Evidence
from maquette.metrics.ngrams import NGrams
from maquette.objectives.likelihood import NextToken
from maquette.samplers.autoregressive import Autoregressive
from maquette.sandbox import Limits, Sandbox, Uncontained
from maquette.sandbox.checking import checked, fault, first_of
from maquette.system import System

PROMPT = 'def f(xs):\n    """Return the sum of xs."""\n'
WRONG, RIGHT = "    return sum(xs[1:])\n", "    return sum(xs)\n"
CHECK = checked([("f([1, 2, 4])", "7"), ("f([5])", "5"), ("f([])", "0")])


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(limits=Limits(seconds=20.0), imports=("math",)) as found:
        try:
            yield found.start()
        except Uncontained as error:
            pytest.skip(str(error))


def system_of(texts: list[str]) -> System:
    codec = Bytes(240)
    return System({"main": Reciting(codec, texts)}, NextToken(codec.bos), Autoregressive(temperature=0.0), codec)


def teaching(name: str = "repairs") -> Any:
    """Tasks of which a model knows the wrong program, and the right one behind what is wrong with that."""
    rows = {"text": [PROMPT + RIGHT], "prompt": [PROMPT], "check": [CHECK]}
    return text_data(Facts(name, "text", "own", "", "", "", {}), {"train": rows, "held": rows})


def behind(wrong: str = "f([1, 2, 4]) gives 6, not 7") -> str:
    return repairs.asked(PROMPT, WRONG, wrong) + "\n" + RIGHT


def test_a_mutant_is_one_change_and_most_still_parse():
    program = PROMPT + "    import math\n\n    return math.prod((x * x for x in xs[1:5] if x > 3 and x % 2 == 0))\n"
    found = [mutant(program, random.Random(i)) for i in range(300)]
    kept = {text for text in found if text}
    assert len(kept) > 12 and all(text.startswith(PROMPT) for text in kept) and program not in kept
    same = ast.dump(ast.parse(program))
    parsed = 0
    for text in kept:
        try:
            parsed += ast.dump(ast.parse(text)) != same
        except SyntaxError:
            assert text == program.rstrip()[:-1] + "\n"
    assert parsed >= len(kept) - 1 and mutant(program, random.Random(7)) == found[7]
    assert any("import" not in text for text in kept) and any("if" not in text for text in kept)


def test_what_went_wrong_is_the_first_shown_call_that_fails(sandbox):
    def wrong(body: str, check: str = CHECK) -> str:
        asked = json.loads(check)
        return fault(sandbox.run(PROMPT + body, asked["calls"], shown=asked["shown"]), asked)

    assert wrong(RIGHT) == "" and wrong(WRONG) == "f([1, 2, 4]) gives 6, not 7"
    assert wrong("    return max(xs)\n") == "f([1, 2, 4]) gives 4, not 7"
    assert wrong("    return sum(ys)\n") == "f([1, 2, 4]): NameError: name 'ys' is not defined"
    assert wrong("    return sum(xs) / (len(xs) - 1)\n", checked([("f([2, 2])", "4.0"), ("f([5])", "5")])).startswith(
        "f([5]): Zero"
    )
    assert wrong("    return sum(xs\n") == "SyntaxError: '(' was never closed"
    assert wrong("    return [x for x in xs]\n") == "f([1, 2, 4]) gives [1, 2, 4], not 7"
    shown = checked([("f([1, 2])\n", "3\n")], shown=True)
    assert wrong(RIGHT, shown) == "" and wrong(WRONG, shown) == "f([1, 2]) gives 2, not 3"
    assert first_of(json.loads(CHECK), 1)["calls"] == ["f([1, 2, 4])"]


def test_repairs_are_learnt_behind_what_is_only_shown(monkeypatch, sandbox):
    monkeypatch.setattr(functions, "ROWS", {"train": 40, "held": 10})
    monkeypatch.setattr(repairs, "BROKEN", 6)
    data = repairs.repairs()
    columns = data.train.columns
    mended_rows = [i for i, given in enumerate(columns["given"]) if given]
    assert len(mended_rows) == 6 and data.facts.rows == {"train": 46, "held": 10} and "given" not in data.held.columns
    codec = Bytes(900)
    holes = Holes(Split(columns), codec, 900, 0.0, 0.5)
    for i in mended_rows:
        text, prompt, given = (columns[name][i] for name in ("text", "prompt", "given"))
        right = text[given:].removeprefix("\n")
        assert text.startswith(prompt) and text[:given].rpartition("\n")[2].startswith("# ")
        assert prompt + right in columns["text"] and text[len(prompt) : given].partition("# ")[0] != right
        symbols, shown = holes.told(i, random.Random(0))
        assert codec.decode(torch.tensor([symbols[shown:]])) == [text[given:]]
    batch = holes.rows(torch.arange(len(holes)))
    row = next(i for i in range(len(batch["code"])) if not batch["learnt"][i].all())
    first = int(batch["learnt"][row].long().argmin())
    assert (batch["code"].shape == batch["learnt"].shape) and not batch["learnt"][row, first : first + 30].any()


def test_a_program_that_fails_is_written_again_behind_what_went_wrong(sandbox):
    """A model that begins wrong and knows better once told: it passes after one round, by repair and not by more tries."""
    system = system_of([PROMPT + WRONG, behind()])
    examples = json.loads(CHECK)
    once = mended(system, PROMPT, [PROMPT + WRONG, PROMPT + RIGHT + "print(1)\n"], examples, 0, 0, system.sampler)
    assert once == {"text": [PROMPT.rstrip() + "\n" + WRONG, PROMPT + RIGHT], "wrong": ["f([1, 2, 4]) gives 6, not 7", ""]}
    again = mended(system, PROMPT, [PROMPT + WRONG], examples, 1, 0, system.sampler)
    assert again == {"text": [PROMPT + RIGHT], "wrong": [""]}


def test_repair_is_held_against_as_many_tries_from_the_start(sandbox):
    system = system_of([PROMPT + WRONG, behind()])
    shut = Evidence(teaching(), system)
    assert "--allow-code-exec" in repaired.applies(shut)
    assert "repairs does" in repaired.applies(Evidence(teaching("functions"), system, executes=True))
    figures = judge(Evidence(teaching(), system, executes=True), choose(["repaired"]))["metrics"]
    assert figures["repaired"].value == figures["gained by repair"].value == 1 and figures["drawn anew"].value == 0
    written = len(WRONG) + 1  # of tries, of which every one is the same
    assert figures["symbols of a repair"].value == len("\n" + RIGHT) and figures["symbols anew"].value == 2 * written
    right = judge(Evidence(teaching(), system_of([PROMPT + RIGHT]), executes=True), choose(["repaired"]))
    assert "nothing to repair" in right["skipped"]["repaired"]


def test_examples_are_asserts_or_a_prompt_s_and_others_are_refused(tmp_path):
    path = tmp_path / "examples.py"
    path.write_text("assert f([1, 2]) == [3, {'a': 1}]\nassert f([]) == -1\n")
    found = examples_of(path)
    assert found["calls"] == ["f([1, 2])", "f([])"] and found["right"] == ["list(3, dict('a': 1))", "-1"]
    path.write_text(">>> f(2)\n4\n")
    assert examples_of(path)["shown"] and examples_of(path)["right"] == ["4\n"]
    for text, why in {
        "print(f(1))": "write each example as assert",
        "assert f(1) == g(1)": "must be written out",
        "": "holds no example",
        "assert (": "is no Python: line 1",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=why):
            examples_of(path)
    with pytest.raises(ValueError, match="there is no such file"):
        examples_of(tmp_path / "none")
    system = system_of([PROMPT + RIGHT])
    for told, why in {
        ("", 1, True, "x"): "only where --check says what is right",
        ("a", 0, False, "x"): "--allow-code-exec",
        ("a", 0, True, ""): "behind --prompt",
        ("a", 2, True, "x"): "shows no program that was mended",
    }.items():
        with pytest.raises(ValueError, match=why):
            check_mending(system, "functions", *told)


def test_programs_are_checked_from_the_command_line(tmp_path, shell, sandbox):
    folder = tmp_path / "code"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.py").write_text((PROMPT + RIGHT) * 9 + f"x = {i}\n")
    (tmp_path / "examples.py").write_text("assert f([1, 2, 4]) == 7\n")
    told = {"data": str(folder), "depth": 1, "vocab": 300, "context": 48, "steps": 2, "batch": 4, "compile": False}
    api.train("codex", out=tmp_path / "run", quiet=True, **told)
    words = [
        "sample",
        str(tmp_path / "run"),
        "-n",
        "2",
        "--prompt",
        PROMPT,
        "--check",
        str(tmp_path / "examples.py"),
        "--truncate",
    ]
    done = shell(*words, "--print", "--allow-code-exec")
    assert done.returncode == 0 and "of 2 pass" in done.stderr, done.stderr
    with pytest.raises(ValueError, match="--allow-code-exec"):
        api.sample(tmp_path / "run", 2, prompt=PROMPT, check=tmp_path / "examples.py")


# -- what counting comes to ----------------------------------------------------------------------------------------------


def test_pieces_are_drawn_by_witten_and_bell():
    """Behind "a b": c twice and d once, so 3 of 5 from there; else behind "b"; else what is anywhere."""
    grams = NGrams(["a b c", "a b c", "a b d", "x b e"], order=3)
    rng = random.Random(0)
    drawn = Counter(grams.pieces[grams.next([0, grams.number["a"], grams.number[" b"]], rng)] for _ in range(20_000))
    every = Counter(["a", " b", " c", ""] * 2 + ["a", " b", " d", ""] + ["x", " b", " e", ""])
    one = {piece: count / 16 for piece, count in every.items()}
    two = {piece: (Counter({" c": 2, " d": 1, " e": 1})[piece] + 3 * chance) / 7 for piece, chance in one.items()}
    for piece, chance in two.items():
        expected = (Counter({" c": 2, " d": 1})[piece] + 2 * chance) / 5
        assert drawn[piece] / 20_000 == pytest.approx(expected, abs=0.012)
    assert NGrams(["one two", "one two"]).continued("one", random.Random(0), 1) in {" two", "one", ""}


def test_baselines_of_programs_are_run_as_a_model_s_are(monkeypatch, sandbox):
    monkeypatch.setattr(passing, "SAMPLES", 2)
    monkeypatch.setattr(passing, "KS", (1, 2))
    found = programmed(teaching())
    assert found["the most similar training row"]["pass@1"]["value"] == 1.0
    assert {*found} == {"n-grams of the training text", "the most similar training row"}
    assert programmed(open_data("digits")) == {}


# -- tests that are written ----------------------------------------------------------------------------------------------


def test_tests_of_functions_are_true_and_learnt_behind_them(monkeypatch, sandbox):
    monkeypatch.setattr(functions, "ROWS", {"train": 20, "held": 10})
    monkeypatch.setattr(tested, "TESTED", 5)
    data = tested.tested()
    columns = data.train.columns
    behind_them = [i for i, given in enumerate(columns["given"]) if given]
    assert len(behind_them) == 5 and len(data.held.columns["tests"]) == 10
    for text, tests in zip(data.held.columns["text"][:3], data.held.columns["tests"][:3], strict=True):
        found = list(tested.tests_in(tests))
        assert len(found) == tested.TESTS and all(testing.holding(sandbox, text, found))
    for i in behind_them:
        text, given = columns["text"][i], columns["given"][i]
        assert text[given:].startswith("\nassert f(") and text[:given] + "\n" in columns["text"]


def test_what_is_no_test_is_passed_over():
    text = (
        "assert f([1]) == 2\nassert f(1) == g(1)\nassert g(1) == 2\nassert f(1) > 2\nassert f(\nf(1)\n  assert f('a') == set()\n"
    )
    assert list(tested.tests_in(text)) == [("f([1])", "2"), ("f('a')", "set()")]


def test_tests_count_where_they_hold_and_catch_what_is_broken(monkeypatch, sandbox):
    """A model that writes one true test, which sees the order of things, and a false one."""
    text = 'def f(xs):\n    """Return the first 2 of xs as a list."""\n    return [x for x in xs[:2]]\n'
    check = checked([("f([1, 2, 3])", "list(1, 2)"), ("f([])", "list()")])
    rows = {"text": [text], "prompt": [text[:60]], "check": [check], "tests": ["assert f([]) == []\n"]}
    data = text_data(Facts("tested", "text", "own", "", "", "", {}), {"train": rows, "held": rows})
    monkeypatch.setattr(testing, "BROKEN", 4)
    told = {}
    for name, tests in {"good": "assert f([1, 2, 3]) == [1, 2]\nassert f([4]) == []\n", "none": "pass\n"}.items():
        evidence = Evidence(data, system_of([text + tests]), executes=True)
        told[name] = judge(evidence, choose(["testing"]))["metrics"]
    good, none = told["good"], told["none"]
    assert good["tests that hold"].value == 0.5 and good["tests written"].value == 2 and "tests that hold" not in none
    assert good["mutants caught"].value == 1 and none["mutants caught"].value == none["tests written"].value == 0
    assert good["mutants caught"].low < 1 and none["mutants caught"].high > 0  # of a few functions
    assert good["mutants caught by the data's tests"].value == 0  # of no things, the first two are none whatever was changed
