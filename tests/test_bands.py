"""Each recipe, from one command, reaches the band that it names (`Experiment.expected`). Minutes each: `make slow`.

That each names one is seen in test_docs.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from maquette import recipes
from maquette.runs import build


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(recipes.catalogue()))
def test_recipe_reaches_its_band(recipe, tmp_path):
    experiment = build(recipe, {}, 0)[0]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    base = [sys.executable, "-m", "maquette"]
    out = str(tmp_path / recipe)
    train = [*base, "train", recipe, "--budget", f"{experiment.within}s", "--out", out, "--threads", "1", "-q"]
    subprocess.run(train, env=env, check=True, timeout=2400, capture_output=True)
    judge = [*base, "eval", out, "--threads", "1", "--json"]
    done = subprocess.run(judge, env=env, check=True, timeout=2400, capture_output=True, text=True)
    metrics = json.loads(done.stdout)["metrics"]
    wrong = []
    for figure, (low, high) in (experiment.expected or {}).items():
        value = metrics[figure]["value"]
        if not low <= value <= high:
            wrong.append(f"{figure} is {value:.3f}, expected {low} .. {high}")
    assert not wrong, "; ".join(wrong)
