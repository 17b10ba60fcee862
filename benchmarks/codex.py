"""What a model of code is worth: programs that pass their checks when run, and lines filled in against lines continued.

Trains codex with holes in most of its rows and without any, a budget of training seconds each; n-grams of the same texts and the
most similar training row write beside it. Writes benchmarks/DATE-codex.md and .json.
python benchmarks/codex.py --budget 60s --seeds 0,1
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

HOLES = 0.8  # share of rows with one, the recipe's own
METRICS = ["bytes", "infilling", "passing"]
FIGURES = ("bits/byte", "lines infilled", "lines continued", "lines gained", "pass@1", "pass@10", "programs that run")


def scored(folder: Path, budget: str, seed: int, rate: float, data: str) -> dict[str, Any]:
    """The figures of one training."""
    if not (folder / "run.json").exists():
        api.train("codex", out=folder, budget=budget, seed=seed, quiet=True, rate=rate, data=data)
    told = api.evaluate(folder, only=METRICS, allow_code_exec=True)
    figures = {
        name: [told["metrics"][name][key] for key in ("value", "low", "high")] for name in FIGURES if name in told["metrics"]
    }
    seconds = {"training": told["seconds"], **told["seconds_by_metric"]}
    return {
        "seed": seed,
        "rate": rate,
        "steps": told["step"],
        "parameters": told["parameters"],
        **figures,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--data", default="functions")
    parser.add_argument("--keep", default="", help="keep the runs in this folder; those that are there are not trained again")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    day, busy = datetime.date.today().isoformat(), os.getloadavg()[0]
    out = Path(__file__).parent / f"{day}-codex"
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    floors: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as spare:
        folder = asked.keep or spare
        for rate, seed in [*((HOLES, seed) for seed in seeds), (0.0, seeds[0])]:
            rows.append(scored(Path(folder, f"{rate}-{seed}"), asked.budget, seed, rate, asked.data))
            if not floors and len(rows) == len(seeds) and "pass@1" in rows[-1]:
                floors = api.baselines(asked.data, allow_code_exec=True)
            told = {"budget": asked.budget, "data": asked.data, "load": busy, "floors": floors, "rows": rows}
            out.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
            out.with_suffix(".md").write_text(page(told, day))
            print(json.dumps(rows[-1]), flush=True)


def page(told: dict[str, Any], day: str) -> str:
    """A table of all rows, with 95 % intervals."""
    lines = [f"# codex on {told['data']}, {told['budget']} of training each, one CPU thread, {day}", ""]
    lines += ["Held out are pairs of parts. SIMULATED functions: passing says that known parts are put together anew.", ""]
    lines += [f"| holes | seed | steps | {' | '.join(FIGURES)} |", f"|{'---|' * (len(FIGURES) + 3)}"]
    for row in told["rows"]:
        shown = [f"{row[f][0]:.3f} [{row[f][1]:.3f}, {row[f][2]:.3f}]" if f in row else "-" for f in FIGURES]
        lines.append(f"| {row['rate']} | {row['seed']} | {row['steps']} | {' | '.join(shown)} |")
    for name, found in told["floors"].items():
        shown = [f"{found[f]['value']:.3f}" + _ends(found[f]) if f in found else "-" for f in FIGURES]
        lines.append(f"| {name} | | | {' | '.join(shown)} |")
    return "\n".join([*lines, "", f"`benchmarks/codex.py`, load {told['load']:.1f} on {os.cpu_count()} cores.", ""])


def _ends(figure: dict[str, Any]) -> str:
    return f" [{figure['low']:.3f}, {figure['high']:.3f}]" if "low" in figure else ""


if __name__ == "__main__":
    main()
