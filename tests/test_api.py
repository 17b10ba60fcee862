"""The verbs in Python: the same names as in the shell, whatever was imported before; quick to start; plain about mistakes."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import maquette
import maquette.train  # the module must not hide the verb
from maquette import api, drawing
from maquette.conditioners.label import Labels
from maquette.drawing import BATCH
from maquette.report.bar import Bar, Board


def test_verbs_are_the_packages_attributes():
    for name in maquette.VERBS:
        assert getattr(maquette, name) is getattr(api, name)
    assert "train" in dir(maquette)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return maquette.train("vae", data="digits", steps=3, batch=16, out=tmp_path_factory.mktemp("runs") / "vae", quiet=True)


def test_a_run_opens_and_draws_what_it_is_told(run):
    again = maquette.load(run.run.path)
    images = again.sample(4, about={"label": "3"}, seed=5)
    assert images["image"].shape == (4, 1, 8, 8) and images["label"].tolist() == [3] * 4
    assert torch.equal(images["image"], run.sample(4, about={"label": 3}, seed=5)["image"])


def test_whoever_says_something_hears_how_it_was_heard(run, monkeypatch, capsys):
    monkeypatch.setattr(Labels, "notes", lambda self, batch: [f"{len(batch['label'])} labels, half heard"])
    maquette.sample(run.run.path, 2)
    assert capsys.readouterr().err == ""
    maquette.sample(run.run.path, 2, about={"label": 3})
    assert capsys.readouterr().err == "note: 2 labels, half heard\n"


def test_scoring_says_what_it_is_at_and_how_far_its_samples_are(run, shell, monkeypatch):
    seen = []
    monkeypatch.setattr(Board, "show", lambda self, states: seen.append(states["scoring"]))
    assert shell("eval", str(run.run.path), "-n", "300", "--metrics", "frechet,bytes", "-q").returncode == 0 and seen == []
    done = shell("eval", str(run.run.path), "-n", "300", "--metrics", "frechet,bytes")
    assert done.returncode == 0 and "bytes: not measured" in done.stdout
    assert [seen[0], seen[-1]] == [("frechet", 0.0), ("done", 1.0)]  # what does not apply is not told of
    assert seen[1:-1] and {stage for stage, _ in seen[1:-1]} == {"300 samples"}
    shares = [share for _, share in seen[1:-1]]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 256 / 300  # drawn by 256


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    return maquette.train("flow", data="digits", steps=1, batch=4, out=tmp_path_factory.mktemp("runs") / "flow", quiet=True)


def test_drawing_shows_how_far_it_is_once_it_takes_seconds(run, solved, monkeypatch):
    """A solver's steps; of what is drawn at once, the samples behind it. Nothing of what is quick or quiet."""
    seen = []
    monkeypatch.setattr(Bar, "step", lambda self, told: seen.append((told.step, told.steps, self.title)))
    maquette.sample(run.run.path, 2, quiet=False)
    monkeypatch.setattr(drawing, "PATIENCE", -1.0)
    maquette.sample(run.run.path, BATCH + 2)
    assert seen == []
    maquette.sample(run.run.path, BATCH + 2, quiet=False)
    maquette.sample(solved.run.path, BATCH + 2, dials={"steps": 2}, quiet=False)
    vae, flow = f"vae, {BATCH + 2} samples", f"flow, {BATCH + 2} samples"
    assert seen[:2] == [(0, BATCH + 2, vae), (BATCH, BATCH + 2, vae)]
    assert seen[2:] == [(step, 4, flow) for step in (1, 2, 3, 4)]


def test_a_run_needs_no_data_to_be_sampled(run, monkeypatch):
    from maquette.data import opening

    monkeypatch.setattr(opening, "_open", lambda *a: pytest.fail("the data was opened"))
    assert len(maquette.load(run.run.path).sample(2)["image"]) == 2


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda r: maquette.train("vea"), "Did you mean 'vae'"),
        (lambda r: maquette.train("vae", latnt=3, steps=1), "Did you mean 'latent'"),
        (lambda r: maquette.train("vae", data="digitz", steps=1), "Nearest is 'digits'"),
        (lambda r: maquette.train("vae", steps=5, budget="3s"), "not both"),
        (lambda r: maquette.train("vae", budget="soon"), "is not a time"),
        (lambda r: maquette.train("vae", lr=-1.0, steps=1), "lr is -1.0; it must be"),
        (lambda r: maquette.train("vae", out=r.run.path, steps=1), "already holds a run"),
        (lambda r: r.sample(2, about={"label": 12}), "unknown label '12'"),
        (lambda r: r.sample(2, about={"lable": 1}), "Did you mean 'label'"),
        (lambda r: r.sample(2, prompt="def "), "--prompt is for text"),
        (lambda r: maquette.sample(r.run.path, 2, dials={"temprature": 1}), "Did you mean 'temperature'"),
        (lambda r: maquette.sample(r.run.path, 0), "-n 0"),
        (lambda r: maquette.load(r.run.path, bits=8), "no transformer over symbols to pack: only 0"),
        (lambda r: maquette.evaluate(r.run.path, only=["frechett"]), "did you mean 'frechet'"),
        (lambda r: maquette.load(r.run.path, step=77), "no checkpoint of step 77; it has 1, 2, 3; nearest is 3"),
        (lambda r: maquette.load(r.run.path, device="tpu"), "device 'tpu'"),
        (lambda r: maquette.train("vae", depth=1.7, steps=1), "option 'depth' takes int"),
        (lambda r: maquette.train("vae", steps=2.5), "not a whole number"),
        (lambda r: maquette.train("vae", betas=(2.0, 3.0), steps=1), "betas are (2.0, 3.0)"),
        (lambda r: maquette.train("vae", betas="0.9", steps=1), "option 'betas' takes tuple"),
        (lambda r: maquette.train("vae", lr=float("nan"), steps=1), "lr is nan, which is no number"),
        (lambda r: maquette.train("json:dumps", steps=1), "is no recipe"),
        (lambda r: maquette.train("vae", data=str(r.run.path), steps=1), "is a run, not data"),
        (lambda r: maquette.train("vae", out=r.run.path / "checkpoints", steps=1), "is not empty, and what is in it is no run"),
        (lambda r: maquette.train("vae", out=r.run.path / "run.json", steps=1), "is a file"),
        (lambda r: maquette.resume(r.run.path, steps=2), "--steps 2 is not beyond step 3"),
        (lambda r: maquette.resume(r.run.path, steps=9, checkpoint_every=-1), "--checkpoint-every -1"),
        (lambda r: r.sample(2, about={"label": []}), "empty list"),
        (lambda r: r.sample(2, about={"label": True}), "unknown label 'True'"),
        (lambda r: r.sample(0), "n is 0"),
        (lambda r: maquette.evaluate(r.run.path, seed=-1), "--seed -1"),
        (lambda r: maquette.sample(r.run.path, 2, out="x.gif"), "suffix for samples of image '.gif'"),
        (lambda r: maquette.compare("digits", ["vae", "vae"], steps=2), "named twice"),
        (lambda r: maquette.compare("digits", ["vae"]), "say how long"),
        (lambda r: maquette.compare("digits", ["vae"], steps=2, budget="3s"), "one of them"),
        (lambda r: maquette.compare("digits", ["vae"], budget="foo"), "is not a time"),
        (lambda r: maquette.compare("digits", ["vae"], steps=2, jobs=-1), "--jobs -1"),
    ],
)
def test_mistakes_are_named(run, call, said):
    with pytest.raises(ValueError) as caught:
        call(run)
    assert said in str(caught.value)


def test_a_run_that_names_foreign_code_does_not_import_it_unasked(run, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text(
        "from maquette.experiment import Experiment\nfrom maquette.recipes.autoencoders import vae\nopen('sprung', 'w').close()\n"
        "def small(data: str = 'digits') -> Experiment:\n    return vae(data)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(run.run.path, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "recipe": "trap:small", "arguments": {"data": "digits"}}))
    for call in (maquette.load, maquette.sample, maquette.evaluate):
        with pytest.raises(ValueError, match="if you trust it"):
            call(tmp_path / "run")
    with pytest.raises(ValueError, match="if you trust it"):
        maquette.resume(tmp_path / "run", steps=9)
    assert not (tmp_path / "sprung").exists()
    assert len(maquette.load(tmp_path / "run", trust=True).sample(2)["image"]) == 2
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("lacks", ["recipe", "arguments", "seed", "fit", "data", "machine"])
def test_a_record_that_lacks_something_is_named_as_damaged(run, tmp_path, lacks):
    shutil.copytree(run.run.path, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record[lacks]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"is damaged: it has no '{lacks}'"):
        maquette.load(tmp_path / "run")


def test_a_damaged_newest_checkpoint_is_told_of(run, tmp_path, capsys):
    shutil.copytree(run.run.path, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "step-00000003" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    maquette.sample(tmp_path / "run", 2)
    assert "passed over" in (told := capsys.readouterr().err) and "step-00000003" in told


def test_the_example_of_the_docs_trains(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "docs" / "adding.md").read_text()
    (tmp_path / "my_recipes.py").write_text(text.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    made = maquette.train("my_recipes:plain_flow", steps=2, batch=8, width=8, out=tmp_path / "run", quiet=True)
    assert made.sample(2)["image"].shape == (2, 1, 8, 8)


def test_help_imports_no_torch():
    script = "import sys; from maquette import cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
    best = min(_seconds([sys.executable, "-m", "maquette", "--help"]) for _ in range(3))
    assert best < 0.5, f"--help took {best:.2f} s"


def _seconds(command: list[str]) -> float:
    """CPU-seconds of a command: what else the machine does is not counted."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "vae", "--latnt", "3"], "Did you mean 'latent'"),
        (["train", "vae", "--lr", "fast"], "takes float"),
        (["list", "recipe"], "Did you mean 'recipes'"),
        (["eval", "nowhere"], "there is no run at nowhere"),
        (["compare", "--recipes", "vae,gna"], "Did you mean 'gan'"),
        (["compare", "--recipes", "vae", "--seeds", "0,x"], "--seeds '0,x': write whole numbers"),
        (["sample", "nowhere", "--about", "{label: 3}"], "is not JSON"),
    ],
)
def test_the_shell_answers_bad_input_with_exit_code_2(words, said, tmp_path, shell, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = shell(*words)
    assert done.returncode == 2 and said in done.stderr


def test_a_process_of_its_own_answers_alike(tmp_path):
    words = [sys.executable, "-m", "maquette", "train", "vae", "--latnt", "3"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "Did you mean 'latent'" in done.stderr and "Traceback" not in done.stderr
