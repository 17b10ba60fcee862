"""Does a model of code gain from being told what went wrong? Repairs against as many tries from the start.

Trains codex on functions and on broken ones that are mended, a budget of training seconds each; writes benchmarks/DATE-repairs.md
and .json. python benchmarks/repairs.py --budget 120s --seeds 0,1
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from maquette import api

FIGURES = ("pass@1", "pass@10", "repaired", "drawn anew", "gained by repair", "symbols of a repair", "symbols anew")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="120s")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--keep", default="")
    asked = parser.parse_args()
    day, busy, rows = datetime.date.today().isoformat(), os.getloadavg()[0], list[dict[str, Any]]()
    out = Path(__file__).parent / f"{day}-repairs"
    folder = Path(asked.keep or tempfile.mkdtemp(prefix="maquette-repairs-"))
    for seed in map(int, asked.seeds.split(",")):
        place = folder / f"codex-{seed}"
        options: dict[str, Any] = {"data": "repairs", "context": asked.context}
        if not (place / "run.json").exists():
            api.train("codex", out=place, budget=asked.budget, seed=seed, quiet=True, **options)
        told = api.evaluate(place, only=["passing", "repaired"], allow_code_exec=True)
        figures = {name: [found[key] for key in ("value", "low", "high", "n")] for name, found in told["metrics"].items()}
        rows.append({"seed": seed, "step": told["step"], "seconds": told["seconds"], "skipped": told["skipped"], **figures})
        print(json.dumps(rows[-1]), flush=True)
        out.with_suffix(".json").write_text(json.dumps({"budget": asked.budget, "load": busy, "rows": rows}, indent=1) + "\n")
        out.with_suffix(".md").write_text(page(rows, asked.budget, busy, day))


def page(rows: list[dict[str, Any]], budget: str, busy: float, day: str) -> str:
    """A table of all rows, with 95 % intervals."""
    lines = [f"# Repair of programs, codex on repairs, {budget} of training each, one CPU thread, {day}", ""]
    lines += [
        "Of held-out SIMULATED functions whose first program fails an example that is shown: the share that passes every check, "
        "hidden ones too, after two more programs each, written behind what went wrong, or from the start. Symbols are those "
        "written; a repair also reads the program that failed.",
        "",
        f"| seed | steps | failed | {' | '.join(FIGURES)} |",
        f"|{'---|' * (len(FIGURES) + 3)}",
    ]
    for row in rows:
        shown = [f"{row[f][0]:.3f} [{row[f][1]:.3f}, {row[f][2]:.3f}]" if f in row else "-" for f in FIGURES]
        lines.append(f"| {row['seed']} | {row['step']} | {row.get('repaired', [0] * 4)[3]} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", f"`benchmarks/repairs.py`, load {busy:.1f} on {os.cpu_count()} cores.", ""])


if __name__ == "__main__":
    main()
