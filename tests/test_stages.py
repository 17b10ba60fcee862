"""Two stages: a trained run is the codec of the next one. What is kept, what is refused, what two processes agree on."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from maquette import api
from maquette.contracts import Objective, Phase
from maquette.data import open_data
from maquette.data.cached import cached
from maquette.experiment import Fit
from maquette.metrics.evidence import Evidence
from maquette.metrics.reconstruction import measure
from maquette.objectives.coding import Coding, Sharpened
from maquette.objectives.together import Together
from maquette.recipes.codecs import vq_prior, vqgan
from maquette.runs import Run, RunError
from maquette.streams import Streams
from maquette.train import plan

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def codec(tmp_path_factory, previews):
    out = tmp_path_factory.mktemp("stages") / "codec"
    with previews():
        return api.train("vq_vae", out=out, steps=60, batch=32, symbols=32, quiet=True)


@pytest.fixture(scope="module")
def prior(codec):
    out = codec.run.path.with_name("prior")
    return api.train("vq_prior", codec=str(codec.run.path), out=out, steps=40, batch=32, depth=1, quiet=True)


def test_the_codec_of_the_second_stage_is_the_first_stages_own(codec, prior):
    first, second = codec.system.codec.state_dict(), prior.system.codec.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    images = codec.data.held.rows(torch.arange(20))
    with torch.no_grad():
        assert torch.equal(codec.system.encode(images), prior.system.encode(images))


def test_the_prior_knows_more_than_how_many_symbols_there_are(prior):
    evidence = Evidence(prior.data, prior.system)
    found = measure(evidence)
    assert found["bits/image"].value < 0.9 * 16 * math.log2(32)
    batch = prior.data.held.rows(torch.arange(100))
    wrong = {**batch, "label": (batch["label"] + 1) % 10}
    with torch.no_grad():
        rate = [float(prior.system.objective.rate(prior.system, rows, Streams.of(0, 100)).mean()) for rows in (batch, wrong)]
    assert rate[0] < rate[1]  # it listens to the label


def test_a_run_on_a_run_opens_from_another_folder_and_after_the_first_went_on(codec, prior, tmp_path, monkeypatch):
    images = prior.sample(3, seed=1)["image"]
    assert images.shape == (3, 1, 8, 8)
    monkeypatch.chdir(codec.run.path.parent)
    api.train("vq_prior", codec="codec", out=tmp_path / "relative", steps=1, batch=8, depth=1, quiet=True)
    monkeypatch.chdir(tmp_path)
    assert api.resume("relative", steps=2, quiet=True).progress.step == 2
    moved = codec.run.path.with_name("moved")
    shutil.copytree(codec.run.path, moved)
    built = api.train("vq_prior", codec=str(moved), out=tmp_path / "built", steps=2, batch=8, depth=1, quiet=True)
    api.resume(moved, steps=62, quiet=True)  # the first stage trains on; what was built on it keeps what it was built on
    opened = api.load(built.run.path)
    for name, value in built.system.codec.state_dict().items():
        assert torch.equal(opened.system.codec.state_dict()[name], value)
    shutil.rmtree(moved)  # the record that was kept of it, and the weights here, are enough
    again = api.load(built.run.path)
    assert torch.equal(again.sample(2, seed=3)["image"], opened.sample(2, seed=3)["image"])


def test_rows_are_encoded_once():
    calls = []

    def encode(images):
        calls.append(len(images))
        return images.flatten(1).argmax(1)[:, None]

    data = open_data("digits")
    rows = cached(data, "image", encode)
    assert not calls
    for _ in range(3):
        batch = rows.train.rows(torch.tensor([5, 700, 1436]))
    assert sum(calls) == 1437
    assert torch.equal(batch["code"], encode(batch["image"])) and batch["label"].shape == (3,)


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"codec": "{}/codex"}, RunError, r"there is no run at .*codex\. Did you mean .*codec"),
        ({"codec": "{}"}, RunError, r"is not a run"),
        (
            {"codec": "{}/codec", "data": "glyphs"},
            ValueError,
            r"on 1x8x8 images of 17 levels \(digits\), and data 'glyphs'",
        ),
        ({"codec": "{}/codec", "size": 16}, ValueError, r"trained on 1x8x8 images of 17 levels.*1x16x16 images of 256"),
        ({"codec": "{}/vae"}, ValueError, "run of vae, which has no codec of symbols; vq_vae"),
        ({"codec": "{}/kl"}, ValueError, "run of kl_codec, which has no codec of symbols"),
        ({"depth": 0}, ValueError, "depth is 0"),
        ({"dropout": 1.0}, ValueError, "dropout is 1.0"),
    ],
)
def test_a_first_stage_that_does_not_fit_is_refused(codec, how, error, said):
    folder = codec.run.path.parent
    for name, recipe in (("vae", "vae"), ("kl", "kl_codec")):
        if not (folder / name).exists():
            api.train(recipe, out=folder / name, steps=1, batch=8, quiet=True)
    how = {k: v.format(folder) if isinstance(v, str) else v for k, v in how.items()}
    with pytest.raises(error, match=said):
        vq_prior(**how)


def test_a_first_stage_without_a_checkpoint_is_refused(codec, tmp_path):
    shutil.copytree(codec.run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(RunError, match="no checkpoint that can be used"):
        vq_prior(codec=str(tmp_path / "run"))


def test_both_stages_in_one_run_train_their_own():
    found = vq_prior(depth=1)
    moves = {p.name: set(found.system.learners(p)) for p in found.system.objective.phases()}
    assert moves == {"rebuild": {"codec"}, "predict": {"main"}}
    with pytest.raises(ValueError, match="phase called 'rebuild'"):
        Together(Coding(), Coding())


def test_scoring_a_codec_says_what_it_loses_and_what_it_skips(codec):
    told = api.evaluate(codec.run.path)
    assert {"PSNR", "rFD-mlp128-64", "bits/image", "codebook use", "codebook perplexity", "bits/dim"} <= told["metrics"].keys()
    assert told["metrics"]["bits/image"]["value"] == pytest.approx(16 * 5)
    assert "vq_prior" in told["skipped"]["frechet"] and "vq_prior" in told["skipped"]["copying"]
    assert (codec.run.path / "report.html").exists()
    assert list((codec.run.path / "samples").glob("step-*.png"))  # previews show what it makes of held-out rows
    with pytest.raises(ValueError, match="has no prior"):
        api.sample(codec.run.path, 4)


def test_other_systems_are_not_asked_what_they_lose():
    from maquette.runs import build

    flow = build("flow", {}, 0)[0]
    from maquette.metrics import reconstruction

    assert reconstruction.applies(Evidence(flow.data, flow.system)) == "the codec loses nothing"


def test_timing_a_budget_waits_for_no_other_process(monkeypatch):
    """Each rank takes its own number of trial steps: a sum over ranks there would never end."""
    found = vqgan(symbols=16, delay=0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *a: pytest.fail("waits for another rank"))
    planned, _ = plan(found.system, found.data, replace(found.fit, batch=8), budget=0.1)
    assert planned.steps >= 1


def test_a_budget_is_planned_with_every_player_in(monkeypatch):
    """A discriminator that waits 1,000 steps is timed as it will be, not as the nothing that it costs before."""
    found = vqgan(symbols=16, delay=1000)
    seen: list[int] = []
    move = Sharpened.criticise
    monkeypatch.setattr(Sharpened, "criticise", lambda self, *a: seen.append(a[-1]) or move(self, *a))
    Sharpened.criticise.phase = move.phase
    plan(found.system, found.data, replace(found.fit, batch=8), budget=0.1)
    assert seen and min(seen) >= 1000


@pytest.mark.parametrize(("last", "bought"), [(0, 15), (12, 12)])
def test_a_budget_is_planned_by_what_each_stage_costs(last, bought, monkeypatch):
    """Ten steps of a second, then steps of four: thirty seconds are fifteen steps, or as many as there are."""
    now, stages = [0.0], [Phase("first", (), 1, print, until=10), Phase("then", (), 1, print, since=10, until=last)]
    objective = Objective()
    objective.phases = lambda: stages  # type: ignore[method-assign]
    assert objective.ends() == last
    system = SimpleNamespace(objective=objective, device="cpu", training=True, state_dict=dict, load_state_dict=lambda kept: None)

    def step(system, data, progress, world):
        now[0] += 1 if progress.step < 10 else 4
        progress.step += 1
        return {}

    monkeypatch.setattr(sys.modules[plan.__module__], "take_step", step)
    monkeypatch.setattr(sys.modules[plan.__module__], "clock", lambda device: now[0])
    found = {budget: plan(system, None, Fit(steps=1), budget)[0].steps for budget in (5.0, 10.0, 30.0)}
    assert found == {5.0: 5, 10.0: 10, 30.0: bought}


def test_steps_beyond_the_last_lesson_are_refused(tmp_path):
    own = {"data": "principles", "start": 1, "revise": 1, "prefer": 1, "depth": 1, "quiet": True}
    with pytest.raises(
        ValueError, match=r"--steps 4 is beyond step 3, at which the last lesson of this recipe ends; nearest is 3"
    ):
        api.train("constitutional", out=tmp_path / "a", steps=4, **own)


def test_what_a_plan_leaves_no_time_for_is_told(tmp_path, capsys):
    """A dpo that ends before its first preference is no dpo: whoever trains it should know."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}?", "chosen": "yes", "rejected": "no"}) + "\n" for i in range(20)))
    own = {"data": str(rows), "depth": 1, "start": 2, "batch": 2, "lr": 1e-3, "context": 32}
    api.train("dpo", out=tmp_path / "short", steps=2, **own)
    told = capsys.readouterr().err
    assert "note: prefer begins at step 2, and this plan has 2: nothing of it is learnt" in told and "learn begins" not in told
    with pytest.raises(ValueError, match="start is 0; without a run there must be 1 step or more"):
        api.train("dpo", out=tmp_path / "none", steps=3, **{**own, "start": 0})


@pytest.mark.slow
def test_two_processes_keep_equal_codebooks_and_those_of_one(tmp_path):
    """Codebooks pool what all ranks saw, restarts included; the balance of losses too. One process of the same batch agrees."""
    words = ["train", "vqgan", "--steps", "4", "--batch", "8", "--symbols", "16", "--delay", "2", "--seed", "3", "--threads", "1"]
    words += ["-q", "--no-bf16", "--muon", "0", "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "maquette"]
    for name, line in {"one": [sys.executable, "-m", "maquette"], "two": two}.items():
        done = subprocess.run([*line, *words, str(tmp_path / name)], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, both = (api.load(tmp_path / name).system.state_dict() for name in ("one", "two"))
    books = [k for k in one if "quantizer" in k]
    assert books
    for k in one:
        assert float((one[k].double() - both[k].double()).abs().max()) < 1e-4, k
    assert Run.open(tmp_path / "two").rows()
