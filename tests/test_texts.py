"""Texts from the command line and from Python: rules, drafts, log-probabilities, and what is shown while they are drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import maquette
from maquette import api
from maquette.codecs.text import Bytes
from maquette.contracts import IGNORE
from maquette.recipes import UnknownName
from maquette.wording import Pieces

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, str]:
    """Two runs of one tokenizer, and one that reads bytes."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text((ROOT / "maquette" / "streams.py").read_text() * 2)
    wanted = {"gpt": {"depth": 2, "vocab": 400}, "small": {"depth": 1, "vocab": 400}, "bytes": {"depth": 1, "vocab": 0}}
    for name, how in wanted.items():
        api.train("gpt", data=str(text), context=48, out=folder / name, steps=2, batch=4, compile=False, quiet=True, **how)
    return {name: str(folder / name) for name in wanted}


def test_rules_reach_texts_from_the_command_line(runs, shell, tmp_path):
    pytest.importorskip("llguidance")
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false}'
    )
    grammar = tmp_path / "sum.lark"
    grammar.write_text('start: digit "+" digit\ndigit: /[0-9]/\n')
    for run in ("gpt", "bytes"):
        said = json.loads(shell("sample", runs[run], "-n", "3", "--schema", str(schema), "--json").stdout)
        assert all(set(json.loads(text)) == {"ok"} for text in said["text"]) and said["finished"] == [True] * 3
        said = json.loads(shell("sample", runs[run], "-n", "3", "--grammar", str(grammar), "--json").stdout)
        assert all(re.fullmatch(r"\d\+\d", text) for text in said["text"])
    said = json.loads(shell("sample", runs["gpt"], "-n", "2", "--prompt", "def ", "--regex", "[a-z]{3,6}", "--json").stdout)
    assert all(re.fullmatch("def [a-z]{3,6}", text) for text in said["text"])
    free = json.loads(shell("sample", runs["gpt"], "-n", "4", "--json").stdout)["text"]
    held = json.loads(shell("sample", runs["gpt"], "-n", "4", "--json", "--stop", "e", "--stop", "\n").stdout)["text"]
    assert held == [re.split("[e\n]", text)[0] for text in free]
    bad = shell("sample", runs["gpt"], "--regex", "[a", "--print")
    assert bad.returncode == 2 and "regex cannot be kept to" in bad.stderr
    bad = shell("sample", runs["gpt"], "--schema", "none.json", "--print")
    assert bad.returncode == 2 and "--schema none.json: there is no such file" in bad.stderr


def test_log_probabilities_are_those_of_the_objective(runs, shell):
    said = json.loads(shell("sample", runs["gpt"], "-n", "3", "--prompt", "def f", "--json", "--seed", "4").stdout)
    found = api.load(runs["gpt"])
    for text, symbols, logs, finished in zip(said["text"], said["symbols"], said["logprobs"], said["finished"], strict=True):
        code, given = found.system.codec.encode([text]), len(found.system.codec.tokenize(["def f"])[0])
        if "\ufffd" in text or code.shape[1] - given != len(symbols):
            continue  # bytes that are no text, or symbols that its text would not be cut into
        assert text == "def f" + "".join(symbols)
        batch = {"code": code, "given": torch.tensor([given])}
        want = found.system.objective.score(found.system, batch, None)
        assert sum(logs) == pytest.approx(-float(want.detach()), rel=1e-4) and max(logs) < 0
        assert finished == (code.shape[1] < 48)
    made = api.sample(runs["gpt"], 2, prompt="def f", seed=4, logprobs=True)
    assert made["logprobs"] == said["logprobs"][:2] and len(made["symbols"][0]) == len(made["logprobs"][0]) > 0


def test_a_draft_run_changes_nothing_but_the_speed(runs, shell):
    for draft in (runs["small"], "lookup"):
        dials = {"temperature": 0.0}
        assert api.sample(runs["gpt"], 2, draft=draft, dials=dials)["text"] == api.sample(runs["gpt"], 2, dials=dials)["text"]
    said = json.loads(shell("sample", runs["gpt"], "-n", "2", "--draft", runs["small"], "--set", "coupled=true", "--json").stdout)
    assert said["text"] == api.sample(runs["gpt"], 2)["text"]
    for draft, say in (
        (runs["bytes"], "writes Bytes of 257 symbols"),
        ("nowhere", "is no folder of a run"),
        ("ahead", "guesses no"),
    ):
        bad = shell("sample", runs["gpt"], "--draft", draft, "--print")
        assert bad.returncode == 2 and say in bad.stderr, bad.stderr
    bad = shell("sample", runs["gpt"], "--draft", "lookup", "--set", "sampler=beam", "--print")
    assert bad.returncode == 2 and "not for Beam" in bad.stderr


def test_other_samplers_are_a_dial(runs, shell):
    texts = {}
    for name in ("beam", "contrastive", "best_of", "speculative", "autoregressive"):
        texts[name] = json.loads(shell("sample", runs["gpt"], "-n", "1", "--set", f"sampler={name}", "--json").stdout)["text"]
    assert len({tuple(found) for found in texts.values()}) > 2
    best = json.loads(shell("sample", runs["gpt"], "-n", "1", "--best-of", "4", "--json").stdout)["text"]
    assert best == texts["best_of"]
    with pytest.raises(UnknownName, match="Did you mean 'beam'"):
        api.sample(runs["gpt"], 1, dials={"sampler": "beams"})


@pytest.mark.parametrize("words", [(), ("--stop", "e"), ("--draft", "lookup"), ("--set", "sampler=beam"), ("--best-of", "2")])
def test_what_is_shown_as_it_is_drawn_is_the_text(runs, shell, words, monkeypatch):
    want = json.loads(shell("sample", runs["gpt"], "-n", "1", "--prompt", "def é", *words, "--json").stdout)["text"][0]
    told: list[str] = []
    dials = {"stop": words[1]} if "--stop" in words else {"sampler": "beam"} if "--set" in words else {}
    how = {"best_of": 2} if "--best-of" in words else {"draft": "lookup"} if "--draft" in words else {}
    api.sample(runs["gpt"], 1, prompt="def é", dials=dials, tell=lambda row, piece: told.append(piece), **how)
    assert "".join(told) == want
    assert len(told) == 1 or not ("--best-of" in words or "--set" in words)
    assert len(told) > 3 or words
    assert shell("sample", runs["gpt"], "-n", "1", "--prompt", "def é", *words, "--print").stdout == want + "\n"


def test_texts_that_are_shown_one_by_one_are_those_of_a_batch(runs):
    told: dict[int, str] = {}
    made = api.sample(runs["bytes"], 3, tell=lambda row, piece: told.update({row: told.get(row, "") + piece}))
    assert list(told.values()) == made["text"] == api.sample(runs["bytes"], 3)["text"]


def test_what_may_yet_change_is_held_back():
    told: list[str] = []
    pieces = Pieces(Bytes(), lambda row, piece: told.append(piece), ("END", "ab"))
    line = "xé EN Eab".encode()
    for end in range(1, len(line) + 1):
        pieces(end, 0, torch.tensor([[*line[:end], IGNORE]]))
    assert told == ["x", "é", " ", "EN ", "E"]
    pieces(0, 0, torch.tensor([list("xé EN E".encode())]))  # the sample ends before its stop string
    pieces.finish()
    assert "".join(told) == "xé EN E"


def test_a_prompt_that_leaves_no_room_is_refused_by_how_much_or_loses_its_beginning(runs):
    run = maquette.load(runs["gpt"])
    code, length = run.system.codec, int(run.system.codec.length)
    text = "abc " * length
    symbols = code.encode([text]).shape[1]
    with pytest.raises(ValueError, match=rf"has {symbols} symbols, {symbols - length + 1} more than the {length - 1}"):
        run.sample(1, prompt=text)
    made = run.sample(1, prompt=text, truncate=True)["code"]
    assert made.shape[1] <= length and (made[0, : length // 2] == code.encode([text])[0, -(length // 2) :]).all()
    short = run.sample(1, prompt="abc")["text"][0]
    assert short.startswith("abc")
