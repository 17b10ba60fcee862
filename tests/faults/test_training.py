"""What training does when something goes wrong: a clear word, the right exit code, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import apart
import pytest
import torch

from maquette import api, checkpoint, storage
from maquette.contracts import Objective, phase
from maquette.distributed import World
from maquette.runs import Run, RunError, StorageFull, build
from maquette.train import NotFinite, Progress, run

TINY = {"batch": 8}


def reached(process: Any, out: Path, step: int, told: Callable[[], str]) -> None:
    """Wait until a run's log has reached a step."""
    until = time.monotonic() + 90
    while time.monotonic() < until and (process.poll() is None if hasattr(process, "poll") else process.is_alive()):
        log = out / "log.jsonl"
        if log.exists() and log.read_text().count("\n") >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"training never reached step {step}: {told()}")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_so(tmp_path, signum, code):
    out, told = tmp_path / "run", tmp_path / "told.txt"
    words = ["train", "flow", "--steps", "100000", "--batch", "8", "--out", str(out), "--threads", "1", "-q"]
    process = apart.begun(apart.say, words, {}, str(told))
    reached(process, out, 1, told.read_text)
    os.kill(process.pid, signum)
    assert apart.ended(process) == code, told.read_text()
    assert "checkpoint was saved" in told.read_text()
    folder, _, refused = Run.open(out).newest()
    assert not refused and folder.name > "step-00000000"


def test_not_a_number_stops_before_the_update(tmp_path):
    class Sick(Objective):
        @phase("main", "generator", "codec")
        def wither(self, system, batch, rng, step):
            whole = sum(p.sum() for net in system.nets.values() for p in net.parameters() if p.requires_grad)
            return whole * (float("nan") if step == 3 else 0.0) + whole * 0, {}

    session = api.begin("flow", TINY, out=tmp_path / "run", steps=10)
    session.system.objective = Sick()
    with pytest.raises(NotFinite, match=r"phase 'wither' is not finite at step 3.*--lr"):
        api.pursue(session, World(), every=1, quiet=True)
    _, _, refused = session.run.newest()
    restored = api.load(tmp_path / "run")
    assert not refused and restored.progress.step == 3 and not checkpoint.spoilt(restored.system)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    session = api.begin("vae", TINY, out=tmp_path / "run", steps=4)
    with torch.no_grad():
        next(session.system.parameters()).view(-1)[0] = float("inf")
    with pytest.raises(NotFinite, match="at step 0"):
        session.run.save(session.system, session.progress)
    assert not session.run.checkpoints()


def test_a_full_disk_keeps_the_older_checkpoint_and_training_goes_on(tmp_path, monkeypatch):
    session = api.begin("flow", TINY, out=tmp_path / "run", steps=6)
    commit, calls = storage.commit, []

    def full_at_the_second(folder, files):
        calls.append(folder.name)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        commit(folder, files)

    monkeypatch.setattr(storage, "commit", full_at_the_second)
    from maquette.runs import fit

    reports = list(fit(session.run, session.experiment, session.progress, World(), every=2))
    warnings = [report.warning for report in reports if report.warning]
    assert len(warnings) == 1 and "disk full" in warnings[0] and "step-00000002 stays" in warnings[0]
    assert [folder.name for folder in session.run.checkpoints()] == ["step-00000002", "step-00000006"]


def test_a_full_disk_stops_training_when_asked_to(tmp_path, monkeypatch):
    session = api.begin("flow", TINY, out=tmp_path / "run", steps=6)

    def full(folder, files):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "commit", full)
    with pytest.raises(StorageFull, match="disk full"):
        api.pursue(session, World(), every=2, stop_on_full=True, quiet=True)
    assert session.progress.step == 2


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no /dev/full here")
def test_a_really_full_file_system(tmp_path):
    """A file size limit is the nearest to a full disk that needs no privilege: the write itself fails, mid-file."""
    shelf, told = tmp_path / "shelf", tmp_path / "told.txt"
    assert apart.ended(apart.begun(apart.overfill, shelf, told)) == 0
    assert told.read_text() == "refused"
    assert [p.name for p in shelf.iterdir()] == ["step-1"]
    assert storage.read_verified(shelf / "step-1") == {"a": b"x" * 100}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    api.train("flow", out=out, steps=4, checkpoint_every=2, quiet=True, **TINY)
    return out


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(finished, tmp_path):
    import shutil

    out = tmp_path / "run"
    shutil.copytree(finished, out)
    path = out / "checkpoints" / "step-00000004" / "model.safetensors"
    spoilt = bytearray(path.read_bytes())
    spoilt[-1] ^= 1
    path.write_bytes(spoilt)
    session = api.load(out)
    assert session.progress.step == 2
    assert len(session.refused) == 1 and "model.safetensors has changed" in session.refused[0]
    again = api.resume(out, quiet=True)
    assert again.progress.step == 4
    one, two = (storage.read_verified(folder / "checkpoints" / "step-00000004") for folder in (out, finished))
    assert one["model.safetensors"] == two["model.safetensors"] and one["optimizer.safetensors"] == two["optimizer.safetensors"]


def test_a_run_held_by_a_live_process_is_refused(finished):
    with Run.open(finished).held(), pytest.raises(RunError, match=re.escape(f"process {os.getpid()}, which is alive")):
        api.resume(finished, quiet=True)


def test_runs_that_cannot_be_used(finished, tmp_path):
    with pytest.raises(RunError, match=r"Did you mean .*finished"):
        Run.open(finished.with_name("finishd"))
    with pytest.raises(RunError, match=r"no run\.json"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(RunError, match="format 99"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 1, "rec')
    with pytest.raises(RunError, match="damaged"):
        Run.open(tmp_path)
    with pytest.raises(RunError, match="already holds a run"):
        api.begin("flow", TINY, out=finished, steps=1)


def test_extending_a_finished_run(finished, tmp_path):
    import shutil

    out = tmp_path / "run"
    shutil.copytree(finished, out)
    assert api.resume(out, steps=6, quiet=True).progress.step == 6
    assert Run.open(out).record["fit"]["steps"] == 6


# -- several processes -----------------------------------------------------------------------------------------------------


def torchrun(*words: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "maquette", *words]


@pytest.mark.parametrize(("recipe", "muon"), [("flow", 0), ("flow", 0.02), pytest.param("gan", 0, marks=pytest.mark.slow)])
def test_two_processes_take_the_step_of_one(recipe, muon, tmp_path, shell):
    """One player and two. The one process cuts its batch where the ranks do, so that sums run in the same order: without
    that, float32 sums differ in their last bit and Adam, which divides by a gradient's size, makes up to 4e-5 of it. Muon
    rounds its moves to bfloat16 and makes 1e-3 of it."""
    words = ["train", recipe, "--steps", "3", "--batch", "8", "--seed", "3", "--threads", "1", "-q", "--no-bf16", "--no-compile"]
    words += ["--muon", str(muon)] + (["--dropout", "0"] if recipe == "flow" else [])
    two = apart.ranks([*words, "--out", str(tmp_path / "two")], 2, tmp_path)
    assert [apart.ended(process) for process in two] == [0, 0], [(tmp_path / f"{i}.txt").read_text() for i in range(2)]
    for name, more in {"one": ["--micro", "2"], "plain": []}.items():
        assert shell(*words, *more, "--out", str(tmp_path / name)).returncode == 0
    weights = {name: api.load(tmp_path / name).system.state_dict() for name in ("one", "two", "plain")}

    def gap(one: str, other: str) -> float:
        pairs = ((weights[one][k].double(), weights[other][k].double()) for k in weights[one] if weights[one][k].numel())
        return max(float((a - b).abs().max()) for a, b in pairs)

    assert gap("one", "two") <= 1e-6
    assert gap("plain", "two") <= (5e-3 if muon else 1e-4)


def by_agent(words: list[str], told: Path) -> Any:
    return apart.begun(apart.agent, words, 2, str(told))


def by_torchrun(words: list[str], told: Path) -> Any:
    with told.open("w") as file:
        return subprocess.Popen(torchrun(*words), env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=file)


@pytest.mark.parametrize("begun", [by_agent, pytest.param(by_torchrun, marks=pytest.mark.slow)])
def test_a_killed_rank_ends_the_run_and_it_resumes(begun, tmp_path):
    """By torchrun, which the test above does without: its agent in processes that are forked, or the command itself."""
    out, told = tmp_path / "run", tmp_path / "told.txt"
    words = ["train", "flow", "--steps", "100000", "--batch", "8", "--checkpoint-every", "2", "--threads", "1", "-q"]
    process = begun([*words, "--out", str(out)], told)
    reached(process, out, 1, told.read_text)
    until = time.monotonic() + 60
    while not list((out / "checkpoints").glob("step-*")) and time.monotonic() < until:
        time.sleep(0.02)
    import psutil

    ranks = [child for child in psutil.Process(process.pid).children() if "maquette" in " ".join(child.cmdline())]
    assert len(ranks) == 2
    began = time.monotonic()
    max(ranks, key=lambda child: child.pid).kill()  # the second: the first is begun before it
    code = process.wait(60) if hasattr(process, "wait") else apart.ended(process)
    assert time.monotonic() - began < 30
    said = told.read_text()
    assert code != 0 and ("lost a peer" in said or "SIGKILL" in said or "Signal 9" in said), said
    step = api.load(out).progress.step
    assert step >= 2
    assert api.resume(out, steps=step + 2, quiet=True).progress.step == step + 2


def test_a_run_whose_moments_are_of_other_weights_opens_and_does_not_go_on(tmp_path, monkeypatch):
    """As one of an earlier version, whose Muon moved matrices and no kernels."""

    def matrices(net):
        return {name for name, p in net.named_parameters() if p.ndim == 2}

    monkeypatch.setattr(sys.modules["maquette.train"], "hidden", matrices)
    api.train("flow", steps=2, out=tmp_path / "run", quiet=True, **TINY)
    assert not api.load(tmp_path / "run").progress.strange
    monkeypatch.undo()
    opened = api.load(tmp_path / "run")
    assert opened.progress.strange and opened.progress.step == 2 and len(opened.sample(2, seed=0)["image"]) == 2
    with pytest.raises(RunError, match=r"trained by another version of maquette .* sampled, scored, exported"):
        api.resume(tmp_path / "run", steps=4, quiet=True)
    assert api.load(tmp_path / "run").progress.step == 2


def test_the_loop_is_the_same_with_or_without_previews(tmp_path):
    """Looking at a run must not change it: sampling between steps leaves the weights bit-identical."""
    plain = build("flow", TINY, 0)[0]
    looked = build("flow", TINY, 0)[0]
    looked.system.sampler = replace(looked.system.sampler, steps=2)
    for experiment, look in ((plain, False), (looked, True)):
        for _ in run(experiment.system, experiment.data, Progress(replace(experiment.fit, steps=3), 5)):
            if look:
                experiment.system.sample(2, seed=9)
    for a, b in zip(plain.system.state_dict().values(), looked.system.state_dict().values(), strict=True):
        assert torch.equal(a, b)
