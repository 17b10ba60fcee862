"""What the documents say of the code is what the code says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from maquette import recipes

ROOT = Path(__file__).parent.parent


def test_generated_tables_are_fresh():
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


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
