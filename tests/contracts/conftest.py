"""Every recipe at its tiniest: the suite grows by itself with the folder of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maquette import recipes

ROOT = Path(__file__).parent.parent.parent

# What makes any recipe tiny, by the names its dials bear. A recipe with other dials names its own here.
TINY: dict[str, Any] = {"depth": 1, "width": 32, "heads": 2, "vocab": 300, "context": 24, "latent": 4, "steps": 4, "batch": 8}
SMALL = {"font_digits": "digits", "font_digits8:digits": "digits:digits"}  # data that stand in for larger ones


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


@pytest.fixture(params=list(recipes.catalogue()))
def recipe(request) -> str:
    return request.param


@pytest.fixture
def arguments(recipe, text_folder) -> dict[str, Any]:
    return tiny(recipe, text_folder)
