"""Pairs of texts: built-in ones checked against what they were made from, splits that share nothing, the user's own rows."""

from __future__ import annotations

import builtins
import datetime
import json
import re
import struct
from pathlib import Path

import pytest

import maquette.data.catalogs as catalogs
import maquette.data.docstrings as docstrings
from maquette.data import Data, DataError, Facts, open_data
from maquette.data.paired import paired
from maquette.data.shares import held_out, sha1

pytestmark = pytest.mark.usefixtures("anew")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pairs(data: Data, part: str = "") -> list[tuple[str, str]]:
    splits = [data.splits[part]] if part else [data.train, data.held]
    return [pair for split in splits for pair in zip(split.columns["source"], split.columns["text"], strict=True)]


def sound(data: Data) -> None:
    """What holds of every built-in set of pairs."""
    facts = data.facts
    assert facts.field == "text" and facts.sources and facts.licence and facts.attribution and facts.split and facts.notes
    assert facts.rows == {part: len(split) for part, split in data.splits.items()}
    assert 0.03 < facts.rows["held"] / sum(facts.rows.values()) < 0.2
    for column in ("source", "text"):
        assert not {*data.train.columns[column]} & {*data.held.columns[column]}
    assert len(set(pairs(data))) == len(pairs(data)) and all(source.strip() and text.strip() for source, text in pairs(data))
    assert Facts.of(json.loads(json.dumps(facts.asdict()))) == facts


# -- built-ins -----------------------------------------------------------------------------------------------------------


def test_dates_are_the_same_day_in_both_languages(monkeypatch):
    pytest.importorskip("babel")
    from babel.numbers import parse_decimal

    import maquette.data.localized as localized

    monkeypatch.setattr(localized, "DATES", 300)
    monkeypatch.setattr(localized, "NUMBERS", 300)
    data = open_data("dates")
    sound(data)
    assert open_data("dates").facts.hash == data.facts.hash
    found = pairs(data)
    iso = {source[5:]: text for source, text in found if source.startswith("iso: ")}
    forms = {2: "%b %d, %Y", 3: "%B %d, %Y", 4: "%A, %B %d, %Y"}
    for said, text in iso.items():
        form = forms[len(said.split())] if len(said.split()) > 3 or len(said.split()[0]) > 3 else forms[2]
        assert datetime.datetime.strptime(said, form).date().isoformat() == text
    assert len(iso) > 250
    german = [(source[4:], text) for source, text in found if source.startswith("de: ")]
    plain = [(said, text) for said, text in german if re.fullmatch(r"-?[\d,.]+", said)]
    assert len(plain) > 50
    assert all(parse_decimal(said, locale="en") == parse_decimal(text, locale="de") for said, text in plain)
    assert any("€" in said and text.endswith("€") for said, text in german)
    assert any("%" in said and text.endswith("\u00a0%") for said, text in german)


def test_terms_are_cldrs(monkeypatch):
    pytest.importorskip("babel")
    data = open_data("terms")
    sound(data)
    found = dict(pairs(data))
    assert found["de: Cape Verde"] == "Cabo Verde" and found["fr: Germany"] == "Allemagne" and found["de: German"] == "Deutsch"
    english = [{source[4:] for source in split.columns["source"]} for split in (data.train, data.held)]
    assert not english[0] & english[1]  # a term is on one side in both languages


@pytest.mark.parametrize("name", ["dates", "terms"])
def test_without_babel_it_says_what_to_install(name, monkeypatch):
    real = builtins.__import__

    def without(module, *rest):
        if module.split(".")[0] == "babel":
            raise ImportError(module)
        return real(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=rf"'{name}' need babel: pip install 'maquette\[text\]'"):
        open_data(name)


TOLD = '''"""Turn a thing about.

It turns it until nothing is left to turn, and then it stops for good.

>>> turn(1)
"""
def turn(thing):
    """Turn it once more than before.

    Where it was turned already it is turned back, and whoever asked is told so in time.

    Parameters
    ----------
    thing : int
    """
class Wheel:
    def spin(self):
        """Spin the wheel.

        Args:
            self: the wheel.
        """
'''


def test_docstrings_summaries_and_questions_are_read_from_sources(monkeypatch, tmp_path):
    library = {f"{name}.py": TOLD.replace("Turn", f"Turn {name}") for name in "abcdefghijklmnopqrst"}
    monkeypatch.setattr(docstrings, "sources", lambda: (library, []))
    package = tmp_path / "pack"
    (package / "tests").mkdir(parents=True)
    (package / "core.py").write_text(f'"""{"A package of its own that has much to tell. " * 3}"""')
    (package / "bad.py").write_text("def (")
    (package / "tests" / "test_core.py").write_text(f'"""{"Nobody reads what tests tell of themselves. " * 3}"""')
    monkeypatch.setattr(docstrings, "PACKAGES", ("pack", "gone"))
    monkeypatch.setattr(docstrings, "place_of", lambda name: package if name == "pack" else None)
    monkeypatch.setattr(docstrings, "version_of", lambda name: "1.0")
    data = open_data("docstrings")
    texts = [*data.train.columns["text"], *data.held.columns["text"]]
    assert len(texts) == 2 * 20 + 1 and not any("Nobody" in text for text in texts) and not data.facts.sources
    assert any("gone not installed" in note for note in data.facts.notes)
    held = {text.split()[1] for text in data.held.columns["text"] if text.startswith("Turn")}
    assert held == {name for name in "abcdefghijklmnopqrst" if held_out(sha1(f"{name}.py".encode()))}
    assert open_data("prose").facts.rows["train"] > data.facts.rows["train"] + 40
    made = paired(data.facts, [])
    assert made.facts.rows == {"train": 0, "held": 0}
    found = dict(pairs(open_data("summaries")))
    body = "Where it was turned already it is turned back, and whoever asked is told so in time."
    assert found[body].endswith("it once more than before.") and "wheel" not in str(found)  # too little is told of wheels
    asked = dict(pairs(open_data("apiqa")))
    assert asked["What does a.turn do?"] == "Turn a it once more than before." and len(asked) == 20


def test_summaries_end_where_lists_begin():
    text = "Make one thing of\nmany others.\n\nAll of them.\n\nSome more.\n\nReturns:\n    one"
    assert docstrings.summary_of(text) == ("Make one thing of many others.", "All of them.\n\nSome more.")
    sections = ("Parameters\n----------\nx", ":param x: the x", ">>> f(x)", ".. note:: x", "Args:\n    x", "See Also\n--------")
    for section in sections:
        assert docstrings.summary_of(f"Make one thing of many.\n\nAll.\n\n{section}") == ("Make one thing of many.", "All.")
    assert docstrings.summary_of("Short one.\n\nAll.") is None and docstrings.summary_of("x" * 40 + "\n\nAll") is None
    assert docstrings.summary_of("Parameters\n----------\nx : a long list of things\n\nAll") is None


def test_held_out_pairs_share_nothing_with_training_ones():
    rows = [(str(i), f"source {i % 7}", f"text {i}") for i in range(200)]
    data = paired(Facts("x", "text", "own", "", "", "", {}), [*rows, *rows[:5]])
    assert not {*data.train.columns["source"]} & {*data.held.columns["source"]}
    assert any("are left out" in note for note in data.facts.notes)


def mo(path: Path, messages: dict[str, str]) -> None:
    """A catalog as msgfmt writes it."""
    keys = sorted(messages)
    ids, told = ([text.encode() for text in some] for some in (keys, [messages[key] for key in keys]))
    at, offsets = 28 + 16 * len(keys), []
    blob = b""
    for side in (ids, told):
        for text in side:
            offsets.append((len(text), at + len(blob)))
            blob += text + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + b"".join(struct.pack("<2I", *pair) for pair in offsets) + blob)


def test_translations_are_read_from_catalogs(tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTDOMAINDIR", str(tmp_path))
    header = {"": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=n!=1;\n"}
    messages = {f"cannot open file {name}": f"Datei {name} geht nicht auf" for name in map(chr, range(97, 123))}
    messages |= {"same": "same", "%s: %d": "%s - %d", "": "", "menu\x04_Save as": "_Sichern als", "x" * 500: "y" * 500}
    messages |= {"%d old file\0%d old files": "%d alte Datei\0%d alte Dateien", "size_t of a_b": "size_t von a_b", "gone": ""}
    mo(tmp_path / "de" / "LC_MESSAGES" / "good.mo", {**messages, **header})
    mo(tmp_path / "de" / "LC_MESSAGES" / "iso_3166.mo", {"Chile land": "Chile Land", **header})
    (tmp_path / "de" / "LC_MESSAGES" / "bad.mo").write_bytes(b"no catalog at all")
    data = open_data("translations")
    sound(data)
    found = dict(pairs(data))
    assert len(found) == 26 + 3 and found["de: Save as"] == "Sichern als" and found["de: %d old file"] == "%d alte Datei"
    assert found["de: size_t of a_b"] == "size_t von a_b"
    ((name, why),) = data.facts.skipped
    assert name.endswith("bad.mo") and "no catalog" in why
    assert "GPL" in data.facts.licence and "29 into de, 0 into fr" in data.facts.notes[0]


def test_a_machine_without_catalogs_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogs, "FOLDERS", (str(tmp_path),))
    with pytest.raises(DataError, match=r"no message catalogs of de or fr in .*TEXTDOMAINDIR, use terms or dates, or rows"):
        open_data("translations")
    mo(tmp_path / "fr" / "LC_MESSAGES" / "good.mo", {"a": "b"})
    with pytest.raises(DataError, match="hold no sentence"):
        open_data("translations")


# -- the user's own ------------------------------------------------------------------------------------------------------


def rows(path: Path, some: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, some)))
    return path


@pytest.mark.parametrize("names", [("source", "text"), ("prompt", "completion")])
def test_own_pairs(tmp_path, names):
    first = [dict(zip(names, (f"question {i}", f"answer {i % 5}"), strict=True)) for i in range(60)]
    again = [{names[0]: "question 3", names[1]: "another answer"}]
    data = open_data(str(rows(tmp_path / "a.jsonl", [*first, *again, first[0]])))
    assert data.facts.sources and len(pairs(data)) == 61 and ("question 7", "answer 2") in pairs(data)
    assert "1 exact duplicate dropped" in data.facts.notes
    assert not {*data.train.columns["source"]} & {*data.held.columns["source"]}  # one question, two answers: one side
    one = {names[0]: "q", names[1]: "a"}
    with pytest.raises(DataError, match="at least two different ones"):
        open_data(str(rows(tmp_path / "b.jsonl", [one, one])))


def test_a_source_that_many_rows_share_is_where_they_are_from(tmp_path):
    some = [{"text": f"a page {i}", "source": "web" if i % 3 else "books"} for i in range(40)]
    data = open_data(str(rows(tmp_path / "a.jsonl", some)))
    assert not data.facts.sources and "source" not in data.train.columns
    assert any("'source' is one of 2 in 40 rows" in note for note in data.facts.notes)
    blank = [{"text": f"a page {i}", "source": ""} for i in range(40)]
    assert not open_data(str(rows(tmp_path / "b.jsonl", blank))).facts.notes


def test_bad_pairs_are_listed_by_line(tmp_path):
    good = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(20)]
    faults = [
        ({"prompt": "x"}, "has a 'prompt' and no 'completion'; its keys are prompt"),
        ({"prompt": "x", "completions": "y"}, "Nearest is 'completions'"),
        ({"completion": "x"}, "has a 'completion' and no 'prompt'"),
        ({"prompt": ["x"], "completion": "y"}, "'prompt' is a list, not a string"),
        ({"prompt": "x", "completion": 5}, "'completion' is a int, not a string"),
        ({"prompt": " ", "completion": "y"}, "nothing but white space"),
        ({"prompt": "x", "completion": ""}, "empty"),
        ({"answer": "x"}, "has neither 'text', nor 'prompt' and 'completion', nor 'messages'; its keys are answer"),
    ]
    data = open_data(str(rows(tmp_path / "a.jsonl", [*good, *(row for row, _ in faults)])))
    assert len(pairs(data)) == 20
    for (place, said), (number, (_, wanted)) in zip(data.facts.skipped, enumerate(faults, 21), strict=True):
        assert place == f"a.jsonl:{number}" and wanted in said


def test_some_with_a_source_and_some_without_are_refused(tmp_path):
    some = [{"source": f"s{i}", "text": f"t{i}"} for i in range(9)] + [{"text": "alone"}]
    with pytest.raises(DataError, match=r"\(a.jsonl:1\) and others none \(a.jsonl:10\); give all or none"):
        open_data(str(rows(tmp_path / "a.jsonl", some)))


def test_pairs_from_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    for names in (("source", "text"), ("prompt", "completion")):
        table = {names[0]: [f"q{i}" for i in range(20)], names[1]: [f"a{i}" for i in range(20)]}
        pq.write_table(pa.table(table), tmp_path / f"{names[0]}.parquet")
        found = pairs(open_data(str(tmp_path / f"{names[0]}.parquet")))
        assert sorted(found) == sorted(zip(table[names[0]], table[names[1]], strict=True))
