"""Every recipe at its tiniest: the suite grows by itself with the folder of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maquette import api, recipes

ROOT = Path(__file__).parent.parent.parent

# What makes any recipe tiny, by the names its dials bear. A recipe with other dials names its own here.
TINY: dict[str, Any] = {"depth": 1, "width": 32, "heads": 2, "vocab": 300, "context": 24, "latent": 4, "steps": 4, "batch": 8}
SMALL = {"font_digits": "digits", "font_digits8:digits": "digits:digits"}  # data that stand in for larger ones
TINY |= {"symbols": 16, "books": 2, "delay": 2}
# every recipe by itself, and those of a second stage also on a run of the first
CASES = [(name, False) for name in recipes.catalogue()]
CASES += [(name, True) for name, listed in recipes.catalogue().items() if "codec" in listed.arguments]


def tiny(name: str, text: Path) -> dict[str, Any]:
    """Arguments for the smallest system of a recipe, on digits or on a small folder of text."""
    known = recipes.catalogue()[name].arguments
    found = {key: value for key, value in TINY.items() if key in known}
    if "stdlib" in str(known.get("data")):
        found["data"] = str(text)
    if known.get("data") in SMALL:
        found["data"] = SMALL[known["data"]]
    return found


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory) -> Path:
    """A few files of prose and code."""
    folder = tmp_path_factory.mktemp("text")
    for path in sorted((ROOT / "maquette").glob("*.py")):
        (folder / path.name).write_text(path.read_text())
    return folder


@pytest.fixture(scope="session")
def codec_run(tmp_path_factory) -> Path:
    """A trained codec of symbols, for a second stage to build on."""
    out = tmp_path_factory.mktemp("codec") / "run"
    own = {key: value for key, value in TINY.items() if key in recipes.catalogue()["vq_vae"].arguments}
    api.train("vq_vae", out=out, quiet=True, **{**own, "steps": 2, "batch": 8})
    return out


@pytest.fixture(params=CASES, ids=[name + "-on-a-run" * staged for name, staged in CASES])
def case(request) -> tuple[str, bool]:
    return request.param


@pytest.fixture
def recipe(case) -> str:
    return case[0]


@pytest.fixture
def arguments(case, text_folder, request) -> dict[str, Any]:
    found = tiny(case[0], text_folder)
    return {**found, "codec": str(request.getfixturevalue("codec_run"))} if case[1] else found
