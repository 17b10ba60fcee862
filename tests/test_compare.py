"""The verb compare, whole: processes, a system that fails, someone's own recipe, baselines, leaderboard and report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import apart
import pytest

from maquette import api, cli, recipes
from maquette.compare import stages
from maquette.report.bar import plain_table
from maquette.runs import Run, RunError

OWN = '''
from dataclasses import replace

from maquette.experiment import Experiment
from maquette.recipes.language import gpt

def small(data: str = "stdlib", context: int = 16, depth: int = 1) -> Experiment:
    """My own."""
    made = gpt(data=data, depth=depth, vocab=0, context=context)
    return replace(made, fit=replace(made.fit, compile=False))  # to compile takes longer than all else here

def deeper(data: str = "stdlib", context: int = 16) -> Experiment:
    """My own, and another."""
    return small(data, context, 2)

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


def begun(command, stdout, stderr, env):
    """A process of its own, as for users, for the system that fails; forked ones for the others, which take seconds less."""
    if "mine:broken" in command:
        return subprocess.Popen(command, stdout=stdout, stderr=stderr, env=env)
    return apart.Forked(command, stdout.name, env)


def test_compare_survives_a_failing_system_and_shows_what_must_be_beaten(folder, monkeypatch):
    monkeypatch.setattr(sys.modules["maquette.compare"], "subprocess", SimpleNamespace(Popen=begun))
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


def here(entries, jobs, quiet):
    """Every stage of every entry, in this process."""
    for entry in entries:
        for _, command in entry.stages:
            cli.app(command[3:], standalone_mode=False)
        entry.stage = len(entry.stages)


def test_several_seeds_give_a_row_each_and_ranks_over_them(folder, monkeypatch, capsys):
    """By the command line, as JSON: two recipes, two seeds, a run of each with each."""
    monkeypatch.setattr(sys.modules["maquette.compare"], "run_all", here)
    out = folder / "out"
    words = ["compare", "--data", str(folder / "notes"), "--recipes", "mine:small,mine:deeper", "--seeds", "0,1", "--steps", "2"]
    with pytest.raises(SystemExit):
        cli.app([*words, "--out", str(out), "--json"])
    told = json.loads((out / "compare.json").read_text())
    assert json.loads(capsys.readouterr().out[-len(json.dumps(told, indent=1)) - 1 :]) == told and told["seeds"] == [0, 1]
    runs = [(row["recipe"], row["training_seed"]) for row in told["rows"]]
    assert runs == [("mine:small", 0), ("mine:small", 1), ("mine:deeper", 0), ("mine:deeper", 1)]
    assert [Run.open(row["run"]).record["seed"] for row in told["rows"]] == [0, 1, 0, 1]
    assert len({row["metrics"]["bits/byte"]["value"] for row in told["rows"]}) == 4
    found = next(ranking for ranking in told["rankings"] if ranking["metric"] == "bits/byte")
    assert set(found["ranks"]) == {"small", "deeper"} and all(len(ranks) == 2 for ranks in found["ranks"].values())
    assert found["verdict"] in ("stable", "swaps", "open") and len(found["agreed"] + found["swapped"] + found["tied"]) == 1
    page = (out / "report.html").read_text()
    assert "Two systems on" in page and "Ranks over seeds" in page and "mine:deeper-seed1" in page


def test_one_that_was_stopped_goes_on_when_the_same_is_asked(folder, monkeypatch):
    """What is scored and what is trained is left as it is, what is half trained is resumed."""
    monkeypatch.setattr(sys.modules["maquette.compare"], "run_all", here)
    out, names = folder / "out", ["mine:small", "mine:deeper"]
    again = {"steps": 4, "seeds": (0, 1), "out": out, "quiet": True}
    data = str(folder / "notes")
    whole = api.compare(data, names, **again)
    (out / "compare.json").unlink()
    (out / "baselines.json").unlink()
    (out / "mine:small-seed1" / "eval.json").unlink()
    (out / "mine:deeper-seed0" / "eval.json").unlink()
    half = Run.open(out / "mine:deeper-seed0")
    for kept in half.checkpoints():
        if kept.name > "step-00000002":
            shutil.rmtree(kept)
    shutil.rmtree(out / "mine:deeper-seed1")
    asked = []

    def counted(entries, jobs, quiet):
        asked.extend([(entry.name, [command[3] for _, command in entry.stages]) for entry in entries])
        here(entries, jobs, quiet)

    monkeypatch.setattr(sys.modules["maquette.compare"], "run_all", counted)
    for other, said in (
        ({"steps": 5}, "steps 4 and not 5"),
        ({"n": 3}, "n 0 and not 3"),
        ({"arguments": {"context": 8}}, "context"),
    ):
        with pytest.raises(RunError, match=f"the beginning of a comparison of .*{said}"):
            api.compare(data, names, **{**again, **other})
    told = api.compare(data, names, **again)
    stages = [("mine:small-seed0", []), ("mine:small-seed1", ["eval"]), ("mine:deeper-seed0", ["resume", "eval"])]
    assert asked == [*stages, ("mine:deeper-seed1", ["train", "eval"]), ("baselines", ["baselines"])]
    assert [row["metrics"] for row in told["rows"]] == [row["metrics"] for row in whole["rows"]]
    assert half.ended and [row["step"] for row in half.rows()][-1] == 4


def test_a_name_with_hyphens_is_the_recipes(tmp_path):
    assert recipes.named("vqgan-prior") == "vqgan_prior" and recipes.named("my-own:fn") == "my-own:fn"
    assert api.show("vq-vae")["recipe"] == "vq_vae"
    made = api.train("vq-vae", out=tmp_path / "run", steps=1, batch=4, symbols=16, quiet=True)
    assert made.run.record["recipe"] == "vq_vae"
    with pytest.raises(ValueError, match="recipe vq_vae is named twice"):
        api.compare("digits", ["vq-vae", "vq_vae"], steps=2, quiet=True)
    with pytest.raises(recipes.UnknownName, match="'vqgan_prior'"):
        recipes.find("vqgan-priors")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": (0, 0)}, "--seeds names 0 twice"),
        ({"seed": 3, "seeds": (0, 1)}, "give --seed 3 or --seeds 0,1, not both"),
        ({"n": -5}, "-n -5 is not above 0"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        api.compare("digits", ["vae"], steps=2, quiet=True, **options)


def test_the_number_of_samples_is_passed_on(tmp_path):
    (_, train), (_, judge) = stages("vae", "digits", tmp_path, "3s", 0, 1, {"depth": 2, "gamma": 1.0}, n=50)
    assert judge[-2:] == ["-n", "50"] and train[-1] == "--depth=2" and train[train.index("--seed") + 1] == "1"
    assert "-n" not in stages("vae", "digits", tmp_path, "", 5, 0, {})[1][1]
