"""The house's plan, held by its own imports: a lower floor never imports a higher one, and no circle exists."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent / "maquette"
FLOORS = [
    {"arithmetic", "contracts", "streams", "storage", "sandbox"},
    {"nn", "processes", "data"},
    {"networks"},
    {"codecs", "conditioners", "objectives", "samplers", "metrics"},
    {"system", "experiment", "muon"},
    {"train", "checkpoint", "distributed", "evaluate", "baselines", "lossless", "completion", "between", "wording"} | {"mending"},
    {"recipes", "runs", "hub", "dials", "saying"},
    {"report", "doctor", "exhibits", "compare", "parcel", "opened", "loading", "best", "drawing", "finding"}
    | {"training", "api", "cli", "cli_words", "cli_drawing", "cli_finding"},
]
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
SIBLINGS_APART = {"codecs", "conditioners", "objectives", "samplers", "metrics"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> list[tuple[str, int]]:
    """(part of maquette imported, line); imports for type checkers alone do not count."""
    tree = parsed(path)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("maquette"):
            parts = (node.module or "").split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            found += [(name, node.lineno) for name in names if name in FLOOR]
        if isinstance(node, ast.Import):
            found += [(a.name.split(".")[1], node.lineno) for a in node.names if a.name.startswith("maquette.")]
    return found


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def test_every_file_stands_on_a_floor():
    homeless = {part_of(p) for p in ROOT.rglob("*.py")} - set(FLOOR) - {"__init__", "__main__"}
    assert not homeless, f"name a floor for {sorted(homeless)}"


def test_no_floor_imports_a_higher_one():
    wrong = []
    for path in ROOT.rglob("*.py"):
        here = part_of(path)
        for other, line in imports(path):
            if here in FLOOR and (FLOOR[other] > FLOOR[here] or (other != here and {here, other} <= SIBLINGS_APART)):
                wrong.append(f"{path.relative_to(ROOT)}:{line} ({here}) imports {other}")
    assert not wrong, "\n".join(wrong)


def test_nothing_unsafe_is_loaded():
    """No pickle, no torch.load, no shell, no eval: weights are safetensors, everything else is JSON.

    One file runs what it is told: that which runs behind walls.
    """
    banned = {"torch.load", "pickle.load", "pickle.loads", "os.system", "eval", "exec", "joblib.load", "yaml.load"}
    wrong = []
    for path in set(ROOT.rglob("*.py")) - {ROOT / "sandbox" / "inside.py"}:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg in ("allow_pickle", "shell")}
                if name in banned or keywords.get("allow_pickle") == "True" or keywords.get("shell") == "True":
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not wrong, "\n".join(wrong)


def test_sizes_are_printed(capsys):
    """Lines per part: a table to look at, not a gate."""
    lines: dict[str, int] = {}
    for path in ROOT.rglob("*.py"):
        lines[part_of(path)] = lines.get(part_of(path), 0) + path.read_text().count("\n")
    with capsys.disabled():
        print("\nlines: " + ", ".join(f"{part} {count}" for part, count in sorted(lines.items(), key=lambda kv: -kv[1])))
    assert sum(lines.values()) > 0
