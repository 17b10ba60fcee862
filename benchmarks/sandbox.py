"""What it costs to run a program nobody trusts: milliseconds per run with each kind of walls, beside an interpreter without any.

Writes benchmarks/DATE-sandbox.md and .json. python benchmarks/sandbox.py
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maquette.sandbox import Sandbox, Uncontained

RUNS = 60
PROGRAM, CALLS = "def f(x):\n    return x + 1\n", ["f(1)", "f(2)"]


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds of a run: the least, the median, the ninth tenth."""
    took = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        took.append(1000 * (time.perf_counter() - began))
    return {"least": min(took), "median": statistics.median(took), "p90": sorted(took)[RUNS * 9 // 10]}


def main() -> None:
    rows: dict[str, Any] = {}
    plain = [sys.executable, "-I", "-B", "-c", PROGRAM + "f(1)"]
    rows["no walls: an interpreter"] = timed(lambda: subprocess.run(plain, check=True))
    for mode, imports in (("namespaces", ()), ("namespaces", ("networkx",)), ("bubblewrap", ()), ("limits", ())):
        name = f"{mode}, {imports[0]} imported" if imports else mode
        try:
            with Sandbox(mode, imports=imports) as sandbox:
                began = time.perf_counter()
                sandbox.start()
                started = time.perf_counter() - began
                assert sandbox.run(PROGRAM, CALLS).values == ("2", "3")
                rows[name] = {**timed(lambda: sandbox.run(PROGRAM, CALLS)), "start": 1000 * started}
        except Uncontained as error:
            rows[name] = {"refused": str(error).split(". ")[1]}
    who, busy = "root" if os.geteuid() == 0 else "a user", os.getloadavg()[0]
    day = datetime.date.today().isoformat()
    lines = [f"# What walls cost, {day}", ""]
    lines += [
        f"Milliseconds per run, {RUNS} runs each, as {who}, load {busy:.1f} on {os.cpu_count()} cores. `benchmarks/sandbox.py`",
        "",
    ]
    lines += ["| walls | least | median | 90 % | to start, with the self-test |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        shown = [f"{row[key]:.1f}" if key in row else "" for key in ("least", "median", "p90", "start")]
        lines.append(f"| {name} | {' | '.join(shown)} |" if "least" in row else f"| {name} | refused: {row['refused']} | | | |")
    out = Path(__file__).parent / f"{day}-sandbox"
    told = {"runs": RUNS, "user": who, "load": busy, "milliseconds": rows}
    out.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
