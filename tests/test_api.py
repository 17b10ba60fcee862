"""The verbs in Python: the same names as in the shell, whatever was imported before; quick to start; plain about mistakes."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

import maquette
import maquette.train  # the module must not hide the verb
from maquette import api


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
        (lambda r: maquette.evaluate(r.run.path, only=["frechett"]), "did you mean 'frechet'"),
        (lambda r: maquette.load(r.run.path, step=77), "step-00000077"),
        (lambda r: maquette.load(r.run.path, device="tpu"), "device 'tpu'"),
    ],
)
def test_mistakes_are_named(run, call, said):
    with pytest.raises(ValueError) as caught:
        call(run)
    assert said in str(caught.value)


def test_help_imports_no_torch():
    script = "import sys; from maquette import cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
    best = min(_seconds([sys.executable, "-m", "maquette", "--help"]) for _ in range(3))
    assert best < 0.5, f"--help took {best:.2f} s"


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "vae", "--latnt", "3"], "Did you mean 'latent'"),
        (["train", "vae", "--lr", "fast"], "takes float"),
        (["list", "recipe"], "Did you mean 'recipes'"),
        (["eval", "nowhere"], "there is no run at nowhere"),
        (["compare", "--recipes", "vae,gna"], "Did you mean 'gan'"),
        (["sample", "nowhere", "--about", "{label: 3}"], "is not JSON"),
    ],
)
def test_the_shell_answers_bad_input_with_exit_code_2(words, said, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "maquette", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
