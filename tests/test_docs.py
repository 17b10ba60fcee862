"""What the documents say of the code is what the code says of itself."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maquette import api, recipes
from maquette.runs import build

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py"""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as known:
        known.setitem(sys.modules, "generate", made)  # its dataclass looks itself up
        spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def anatomies() -> dict[str, dict[str, Any]]:
    """Every recipe at its full size, taken apart, and what it is expected to reach: each built once for the tests here."""
    found = {}
    for name in recipes.catalogue():
        experiment = build(name, {}, 0)[0]
        found[name] = api.anatomy(experiment) | {"expected": experiment.expected, "within": experiment.within}
    return found


def test_generated_tables_are_fresh(generate, anatomies):
    assert [path.name for path in generate.stale(anatomies)] == [], "run python docs/generate.py"


def test_what_is_written_is_what_is_wanted_and_nothing_more(generate, anatomies, monkeypatch, tmp_path, capsys):
    """A page that is not as the code has it is refused by --check and put right without it; the others are left."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks").mkdir()
    for page in ("README.md", "docs/systems.md"):
        (tmp_path / page).write_text((ROOT / page).read_text())
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "anatomies", lambda: anatomies)
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    with pytest.raises(SystemExit, match=r"stale: families\.md, systems\.md"):  # no such benchmarks or pictures here
        generate.main()
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    generate.main()
    assert capsys.readouterr().out == "written docs/families.md\nwritten docs/systems.md\n"
    assert (tmp_path / "docs" / "families.md").read_text() == (ROOT / "docs" / "families.md").read_text()
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    with pytest.raises(SystemExit) as end:
        generate.main()
    assert end.value.code == 0


def test_every_recipe_names_its_band_and_when_it_is_reached(anatomies):
    for name, found in anatomies.items():
        assert found["expected"] and all(low < high for low, high in found["expected"].values()), name
        assert 0 < found["within"] <= 600, name


def test_every_recipe_has_its_row():
    rows = (ROOT / "docs" / "systems.md").read_text()
    assert [name for name in recipes.catalogue() if f"`{name}`" not in rows] == []


def test_links_and_pictures_exist():
    missing = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                missing.append(f"{page.name} -> {target}")
    assert not missing
