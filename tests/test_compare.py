"""The verb compare, whole: processes, a system that fails, someone's own recipe, baselines, leaderboard and report."""

from __future__ import annotations

import json

import pytest

from maquette import api
from maquette.report.bar import plain_table
from maquette.runs import RunError

OWN = '''
from maquette.experiment import Experiment
from maquette.recipes.language import gpt

def small(data: str = "stdlib", context: int = 16) -> Experiment:
    """My own."""
    return gpt(data=data, depth=1, vocab=0, context=context)

def broken(data: str = "stdlib") -> Experiment:
    """Fails when trained, not when asked for."""
    raise RuntimeError("no luck today")
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    notes = tmp_path / "notes"
    notes.mkdir()
    for i in range(60):
        (notes / f"{i}.txt").write_text(f"Entry {i}. " + "The quick brown fox jumps over the lazy dog. " * 20)
    return tmp_path


def test_compare_survives_a_failing_system_and_shows_what_must_be_beaten(folder):
    out = folder / "out"
    told = api.compare(str(folder / "notes"), ["mine:small", "mine:broken"], steps=2, out=out, jobs=2, quiet=True)
    assert json.loads((out / "compare.json").read_text()) == json.loads(json.dumps(told))
    good, bad = told["rows"]
    assert good["status"] == "ok" and 0 < good["metrics"]["bits/byte"]["value"] < 9
    assert bad["status"] == "failed" and bad["error"].startswith("training ended with code 1") and "no luck today" in bad["error"]
    assert told["floors"]["xz given the training text"]["bits/byte"]["value"] < good["metrics"]["bits/byte"]["value"]
    table = plain_table(told["rows"], told["floors"])
    assert "(xz given the training text)" in table and "broken failed: training ended" in table
    page = (out / "report.html").read_text()
    assert "xz given the training text" in page and "no luck today" in page
    with pytest.raises(RunError, match="already holds a comparison"):
        api.compare(str(folder / "notes"), ["mine:small"], steps=2, out=out, quiet=True)
