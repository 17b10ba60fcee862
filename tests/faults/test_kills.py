"""Hundreds of kills: SIGKILL at random instants, resumed until done, must equal the run that nobody touched. `make slow`."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch

from maquette import api
from maquette.runs import Run
from maquette.storage import read_verified

STEPS = 120


def _train(recipe: str, out: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if (Path(out) / "run.json").exists():
        api.resume(out, checkpoint_every=3, quiet=True)
    else:
        api.train(recipe, out=out, steps=STEPS, seed=7, checkpoint_every=3, quiet=True, batch=8, compile=False)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["vae", "gan", "pixelcnn", "maskgit", "flow"])
def test_random_kills(recipe, tmp_path):
    whole = api.train(recipe, out=tmp_path / "whole", steps=STEPS, seed=7, quiet=True, batch=8, compile=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["maquette.api", "torch.utils.tensorboard"])
    rng, kills, seed = random.Random(), 0, random.randrange(1 << 30)
    rng.seed(seed)
    out = tmp_path / "cut"
    for _ in range(200):
        process = context.Process(target=_train, args=(recipe, str(out)))
        process.start()
        process.join(rng.uniform(0.3, 2.5))
        if process.is_alive():
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        done = Run.open(out).checkpoints() if (out / "run.json").exists() else []
        if done and done[-1].name == f"step-{STEPS:08d}":
            break
        time.sleep(0.01)
    one, two = (read_verified(Run.open(path).checkpoints()[-1]) for path in (whole.run.path, out))
    assert one["model.safetensors"] == two["model.safetensors"], f"after {kills} kills, seed {seed}"
    assert one["optimizer.safetensors"] == two["optimizer.safetensors"]
    assert kills >= 3, "the kills came too late to mean anything"
