"""Code: functions with checks and what passes them, pass@k, holes and what fills them, and that nothing is run unasked."""

from __future__ import annotations

import json
import random
import textwrap
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from maquette import api
from maquette.codecs.text import BPE, HOLE, Bytes
from maquette.contracts import IGNORE, Network
from maquette.data import DataError, Split, gradeable, open_data
from maquette.data import functions as made
from maquette.data.infilling import WAYS, Holes, anywhere, between_lines, cut, lines_of
from maquette.evaluate import choose, judge
from maquette.metrics import infilling, passing
from maquette.metrics.evidence import Evidence
from maquette.objectives.likelihood import NextToken
from maquette.runs import build
from maquette.samplers.autoregressive import Autoregressive
from maquette.sandbox import Limits, Sandbox, Uncontained
from maquette.sandbox.checking import alike, judged
from maquette.system import System

TEXT = "def f(x):\n    y = x + 1\n    return 2 * y\n"


@pytest.fixture(scope="module")
def functions():
    known = dict(made.ROWS)
    made.ROWS.update(train=400, held=60)
    yield open_data("functions")
    made.ROWS.update(known)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(limits=Limits(seconds=20.0)) as found:
        try:
            yield found.start()
        except Uncontained as error:
            pytest.skip(str(error))


def test_functions_pass_their_checks_and_others_fail_them(functions, sandbox):
    columns = functions.held.columns
    chosen = random.Random(0).sample(range(len(columns["text"])), 5)
    for i, other in zip(chosen, chosen[1:] + chosen[:1], strict=True):
        prompt, text, check = (columns[name][i] for name in ("prompt", "text", "check"))
        assert text.startswith(prompt) and judged(sandbox, text, json.loads(check)) == (True, True)
        assert judged(sandbox, prompt + "    return None\n", json.loads(check)) == (False, True)
        if columns["check"][other] != check:
            assert not judged(sandbox, columns["text"][other], json.loads(check))[0]
    assert judged(sandbox, "def f(x:\n", json.loads(columns["check"][0])) == (False, False)


def test_no_held_out_pair_of_parts_is_together_in_training_and_every_part_is_there(functions):
    """By the code itself: what a held-out pair writes is never in one training function together, nor does it lack practice."""

    def parts(split: Split) -> list[list[str]]:
        return [row.split(" | ") for row in split.columns["parts"]]

    train, held = parts(functions.train), parts(functions.held)
    together = {frozenset(pair) for row in train for pair in combinations(row, 2)}
    fresh = [[pair for pair in combinations(row, 2) if made.apart(pair)] for row in held]
    assert all(fresh) and not any(frozenset(pair) in together for row in fresh for pair in row)
    assert {name for row in held for name in row} <= {name for row in train for name in row}
    long = [sum(map(len, rows)) / len(rows) for rows in (train, held)]
    assert abs(long[0] - long[1]) < 0.5  # held out are others, not longer ones
    even = [i for i, row in enumerate(train) if "{are} even" in row]
    assert even and all("% 2 == 0" in functions.train.columns["text"][i] for i in even)


def test_a_layout_is_said_written_and_done_alike():
    rng = random.Random(5)
    layout = made.composed(rng, held=False)
    while not (layout.unless and layout.which and layout.then and any(used.name == "n" for used in layout.used)):
        layout = made.composed(rng, held=False)
    for loop in (False, True):
        space: dict[str, Any] = {}
        exec("def f(xs, n):\n" + textwrap.indent(made.coded(layout, "xs", loop), "    "), space)
        about = (
            "badness" if layout.subject.name == "letters" else ["ab", "node"] if layout.subject.name == "words" else [3, -8, 14]
        )
        assert space["f"](about, 3) == made.right(layout, about, 3)


@pytest.mark.parametrize(("n", "right"), [(5, 0), (5, 1), (6, 3), (5, 5)])
def test_pass_at_k_is_the_mean_over_all_choices(n, right):
    samples = [True] * right + [False] * (n - right)
    for k in range(1, n + 1):
        chosen = list(combinations(samples, k))
        assert passing.at_least_one(n, right, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


class Reciting(Network):
    """Knows texts by heart: goes on with the first one that begins as what it reads does."""

    def __init__(self, codec: Any, texts: list[str]):
        super().__init__()
        self.bos, self.vocab, self.weight = codec.bos, codec.vocab, torch.nn.Parameter(torch.ones(()))
        self.next: dict[tuple[int, ...], int] = {}
        for row in codec.tokenize(texts):
            self.know([codec.bos, *row, codec.bos])

    def know(self, row: list[int]) -> None:
        for place in range(1, len(row)):
            self.next.setdefault(tuple(row[:place]), row[place])

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        logits = torch.zeros(*x.shape, self.vocab)
        logits[..., self.bos] = 1.0
        for row, out in zip(x.tolist(), logits, strict=True):
            for place in range(len(row)):
                if (symbol := self.next.get(tuple(row[: place + 1]))) is None:
                    break
                out[place, symbol] = 99.0
        return logits * self.weight


def test_passing_runs_nothing_unless_it_may_and_then_says_how_many_pass(functions, monkeypatch):
    """A system that knows half of the solutions by heart, and of the others a wrong one."""
    monkeypatch.setattr(passing, "TASKS", 4)
    monkeypatch.setattr(passing, "SAMPLES", 2)
    monkeypatch.setattr(passing, "KS", (1, 2))
    monkeypatch.setattr(passing, "ROOM", 500)
    codec, columns = Bytes(900), functions.held.columns
    prompts = {prompt: i for i, prompt in enumerate(columns["prompt"])}  # of equal prompts one
    known = [columns["text"][i] if i % 2 else columns["prompt"][i] + "    return -7.5\n" for i in prompts.values()]
    system = System({"main": Reciting(codec, known)}, NextToken(codec.bos), Autoregressive(temperature=0.0), codec)
    shut = Evidence(functions, system)
    assert passing.applies(shut) == "generated code is run only where that is allowed: --allow-code-exec"
    assert judge(shut, choose(["passing"]))["skipped"] == {"passing": passing.applies(shut)}
    evidence = Evidence(functions, system, executes=True)
    told = judge(evidence, choose(["passing"]))
    if "passing" in told["skipped"]:
        pytest.skip(told["skipped"]["passing"])
    figures = told["metrics"]
    chosen = torch.randperm(len(columns["prompt"]), generator=torch.Generator().manual_seed(0))[:4].tolist()
    right = sum(prompts[columns["prompt"][i]] % 2 for i in chosen) / 4
    assert figures["pass@1"].value == figures["pass@2"].value == right and 0 < right < 1
    assert figures["programs that run"].value == 1 and ("samples per task", "2") in figures["pass@1"].signature.options


def test_a_function_ends_where_its_indentation_does():
    assert passing.ended("    return 1\n\n    # more\nprint(2)\n    x") == "    return 1\n\n    # more\n"
    assert alike(
        "Traceback (most recent call last):\n  ...\nValueError: no\n", "Traceback (most recent call last):\nValueError: x\n"
    )
    assert not alike("1\n", "Traceback (most recent call last):\nValueError: x\n") and alike("[1, ...]\n", "[1, 2]\n")


@pytest.mark.parametrize("codec", [Bytes(200, HOLE), BPE(300, 200, HOLE)], ids=["bytes", "bpe"])
def test_a_text_with_a_hole_comes_back_with_it_filled(codec):
    if isinstance(codec, BPE):
        codec.learn([TEXT])
    row = [*codec.around("def f(x):\n", "    return 2 * y\n"), *codec.tokenize(["    y = x + 1\n"])[0], codec.bos, 65]
    assert codec.decode(torch.tensor([row])) == [TEXT]
    begins = [codec.special[name] for name in HOLE]
    assert [symbol for symbol in row if symbol in begins] == begins and codec.decode(codec.encode([TEXT])) == [TEXT]
    after, before = codec.tokenize(["    return 2 * y\n", "def f(x):\n"])
    assert row[: len(after) + len(before) + 3] == [*begins[:2], *after, begins[2], *before]


def test_of_a_text_with_a_hole_the_nearest_is_kept():
    codec = Bytes(200, HOLE)
    assert codec.around("abcdefgh", "123456789", 12) == codec.around("defgh", "1234")
    assert len(codec.around("abcdefgh", "1", 8)) == 8 and codec.around("ab", "1", 12) == codec.around("ab", "1")


def test_holes_of_whole_lines_begin_where_they_are_asked_for_and_end_with_a_line():
    text = "a = 1\n    b = 2\nc = 3\nd = 4\n"
    found = [between_lines(text, random.Random(i)) for i in range(400)]
    filled = [text[first:second] for first, second in found]
    assert {text[second] for _, second in found} == {"\n"} and {part.strip() for part in filled} == {
        "b = 2", "c = 3", "d = 4", "b = 2\nc = 3", "c = 3\nd = 4", "b = 2\nc = 3\nd = 4"
    }  # fmt: skip
    assert 120 < sum(part.startswith("\n") for part in filled) < 280 and "    b = 2" in filled and "\n    b = 2" in filled
    assert 200 < sum("\n" not in part.strip() for part in filled) < 320
    assert between_lines("a\n\nb\n", random.Random(3))[0] in (1, 2, 3)
    assert between_lines("one line\n", random.Random(0)) == anywhere("one line\n", random.Random(0))


def test_rows_with_holes_are_the_pieces_cut_at_every_place(functions):
    codec = Bytes(64, HOLE)
    rows = Holes(Split({"text": [TEXT, TEXT + "x = 1\n" + "y" * 99 + "\nz = 2\n"]}), codec, 64, 0.5, 0.5)
    pieces = [text for text, _ in rows.pieces]
    assert all(len(piece) <= 60 for piece in pieces) and "y" * 99 not in "".join(pieces) and pieces[0] == TEXT
    assert [last for _, last in rows.pieces] == [True, *[False] * (len(pieces) - 2), True]
    code = rows.rows(torch.arange(len(rows)))["code"]
    assert code.shape == (len(pieces) * WAYS, 64) and (code != IGNORE).all()
    ways = [rows.told(0, random.Random(i))[0] for i in range(800)]
    assert set(codec.decode(codec.filled(ways))) == {TEXT} and all(row.index(codec.bos) == len(row) - 1 for row in ways)
    holed = [row for row in ways if codec.special[HOLE[0]] in row]
    assert 360 < len(holed) < 440
    assert torch.equal(code[:1], rows.rows(torch.tensor([0]))["code"]) and len({tuple(row) for row in code[:WAYS].tolist()}) > 1
    whole = Holes(Split({"text": [TEXT[:20] + "\n", TEXT]}), codec, 50, 0.0, 0.5).row(0)[0]
    assert codec.join(whole, special=True) == f"{TEXT[:20]}\n<|endoftext|>{TEXT}"[: 49 + len("<|endoftext|>")]
    none = Holes(Split({"text": [TEXT]}), codec, 64, 0.0, 0.5).rows(torch.arange(WAYS))["code"]
    assert not (none > codec.bos).any()
    assert cut("a\nb\n", codec, 2) == [("a\n", False), ("b\n", True)]


def test_lines_are_found_whole_between_others():
    found = lines_of([TEXT, "one\n", "a\nlong line\r\nb"], random.Random(0))
    assert found == [("def f(x):\n", "    y = x + 1", "\n    return 2 * y\n"), ("a\n", "long line", "\r\nb")]


def test_infilling_counts_lines_that_only_what_follows_tells(monkeypatch):
    """Two texts that begin alike: who knows both by heart, with and without a hole, tells them apart only by what follows."""
    codec = Bytes(96, HOLE)
    texts = [f"first\nline {c} it\nlast {c}\n" for c in "ab"]
    filled = [("first\n", f"line {c} it", f"\nlast {c}\n") for c in "ab"]
    known = Reciting(codec, texts)
    for before, line, after in filled:
        known.know([codec.bos, *codec.around(before.rstrip(), after), *codec.tokenize(["\n" + line])[0], codec.bos])
    system = System({"main": known}, NextToken(codec.bos), Autoregressive(), codec)
    data = open_texts(texts)
    monkeypatch.setattr(infilling, "LINES", 40)
    figures = judge(Evidence(data, system), choose(["infilling"]))["metrics"]
    assert figures["lines infilled"].value == 1.0 and figures["lines continued"].value == figures["lines gained"].value == 0.5
    plain = replace_codec(system)
    assert infilling.applies(Evidence(data, plain)) == "the system knows no texts with holes"


def open_texts(texts: list[str]) -> Any:
    from maquette.data.core import Facts, text_data

    return text_data(Facts("texts", "text", "own", "", "", "", {}), {"train": {"text": texts}, "held": {"text": texts}})


def replace_codec(system: System) -> System:
    codec = Bytes(96)
    return System({"main": Reciting(codec, ["a"])}, NextToken(codec.bos), replace(system.sampler, temperature=0.0), codec)


def test_codex_fills_holes_from_the_api_and_the_command_line(tmp_path, shell):
    folder = tmp_path / "code"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.py").write_text(TEXT * 20 + f"x = {i}\n")
    told = {"data": str(folder), "depth": 1, "vocab": 300, "context": 48, "steps": 2, "batch": 4, "compile": False}
    api.train("codex", out=tmp_path / "run", quiet=True, **told)
    batch = api.sample(tmp_path / "run", 2, prompt="def f(x):\n", suffix="    return 2 * y\n", dials={"length": 12})
    assert all(text.startswith("def f(x):\n") and text.endswith("    return 2 * y\n") for text in batch["text"])
    assert len(set(batch["text"])) == 2
    done = shell("sample", str(tmp_path / "run"), "-n", "1", "--prompt", "def f(", "--suffix", "):\n", "--length", "9", "--print")
    assert done.returncode == 0 and "def f(" in done.stdout, done.stderr
    done = shell("eval", str(tmp_path / "run"), "--metrics", "passing")
    assert "passing: not measured: the data have no tasks with checks" in done.stdout
    with pytest.raises(ValueError, match=r"prompt and suffix have .* symbols, .*; shorten them$"):
        api.sample(tmp_path / "run", 1, prompt="x" * 60, suffix="\n", truncate=True)
    with pytest.raises(ValueError, match=r"lines is a share, 0 .. 1, not 2.0; nearest is 1"):
        build("codex", {"lines": 2}, 0)


def test_a_run_without_holes_says_so(tmp_path):
    path = Path(tmp_path, "text.txt")
    path.write_text(TEXT * 40)
    (tmp_path / "held.txt").write_text(TEXT * 9)
    told = {"depth": 1, "vocab": 0, "context": 24, "steps": 1, "batch": 2, "compile": False}
    api.train("gpt", out=tmp_path / "run", quiet=True, data=str(tmp_path), **told)
    with pytest.raises(ValueError, match="only continues texts: --suffix is for one that fills holes"):
        api.sample(tmp_path / "run", 1, prompt="a", suffix="b")


def test_where_nothing_holds_programs_in_none_is_run_and_the_rest_is_still_measured(functions, monkeypatch):
    def refused(self: Any) -> None:
        raise Uncontained("nothing here holds it in")

    monkeypatch.setattr(passing.Sandbox, "start", refused)
    monkeypatch.setattr(
        passing, "completed", lambda system, prompts, samples, seed: [["    return 1\n"] * samples for _ in prompts]
    )
    codec = Bytes(240)
    system = System({"main": Reciting(codec, ["a"])}, NextToken(codec.bos), Autoregressive(), codec)
    assert judge(Evidence(functions, system, executes=True), choose(["passing"]))["skipped"] == {
        "passing": "nothing here holds it in"
    }


@pytest.mark.slow
@pytest.mark.parametrize("package", gradeable.PACKAGES)
def test_examples_of_docstrings_tell_a_function_from_none_and_from_another(package, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setattr(gradeable, "MOST", 12)
    try:
        kept = gradeable._kept([package])
    except DataError as error:
        pytest.skip(str(error))
    assert len(kept) >= 6
    with Sandbox(imports=(package,)) as sandbox:
        for _, prompt, text, check in kept[:3]:
            asked = json.loads(check)
            name = prompt.removeprefix("def ").split("(")[0]
            assert text.startswith(prompt) and ">>>" not in prompt and judged(sandbox, text, asked)[0]
            itself = f"    import {package}\n    return {package}.{name}(*{prompt.split('(')[1].split(',')[0].rstrip('):')},)\n"
            assert not judged(sandbox, prompt + itself, asked)[0]  # the package has no other than this one any more
