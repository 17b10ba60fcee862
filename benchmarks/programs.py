"""What a model of code does besides writing programs: mends what failed, and writes tests that notice a broken one.

Trains codex on the data that have examples of it, a budget of training seconds each; all is judged by execution. Writes
benchmarks/DATE-programs-DATA.md and .json. python benchmarks/programs.py --data repairs,tested --budget 120s --seeds 0,1
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maquette import api


@dataclass(frozen=True)
class Question:
    """What is asked of a model that learnt of some data: the metrics, which of their figures are shown, and what is to be known
    of them."""

    title: str
    metrics: tuple[str, ...]
    figures: tuple[str, ...]
    told: str


QUESTIONS = {
    "repairs": Question(
        "Is a program mended that failed?",
        ("passing", "repaired"),
        ("pass@1", "pass@10", "repaired", "drawn anew", "gained by repair", "symbols of a repair", "symbols anew"),
        "Of held-out SIMULATED functions whose first program fails an example that is shown: the share that passes every check, "
        "hidden ones too, after two more programs each, written behind what went wrong, or from the start. Symbols are those "
        "written; a repair also reads the program that failed.",
    ),
    "tested": Question(
        "Are tests written that are true, and that notice a broken function?",
        ("testing",),
        ("tests written", "tests that hold", "mutants caught", "mutants caught by the data's tests"),
        "Of held-out SIMULATED functions; a broken one has one change that the function's checks notice.",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="repairs,tested")
    parser.add_argument("--budget", default="120s")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--keep", default="")
    asked = parser.parse_args()
    day, busy = datetime.date.today().isoformat(), os.getloadavg()[0]
    folder = Path(asked.keep or tempfile.mkdtemp(prefix="maquette-programs-"))
    for data in asked.data.split(","):
        rows: list[dict[str, Any]] = []
        for seed in map(int, asked.seeds.split(",")):
            rows.append(scored(folder / f"{data}-{seed}", data, asked.budget, seed, asked.context))
            print(json.dumps(rows[-1]), flush=True)
            told = {"data": data, "budget": asked.budget, "load": busy, "rows": rows}
            out = Path(__file__).parent / f"{day}-programs-{data}"
            out.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
            out.with_suffix(".md").write_text(page(told, day))


def scored(place: Path, data: str, budget: str, seed: int, context: int) -> dict[str, Any]:
    """The figures of one training, each with its interval and of how many."""
    if not (place / "README.md").exists():  # written when training ends
        api.train("codex", out=place, budget=budget, seed=seed, quiet=True, data=data, context=context)
    told = api.evaluate(place, only=list(QUESTIONS[data].metrics), allow_code_exec=True)
    figures = {name: [found[key] for key in ("value", "low", "high", "n")] for name, found in told["metrics"].items()}
    return {"seed": seed, "step": told["step"], "seconds": told["seconds"], "skipped": told["skipped"], **figures}


def page(told: dict[str, Any], day: str) -> str:
    """A table of all rows, with 95 % intervals; n is of how many the figures are, where not the same of all the smallest."""
    question = QUESTIONS[told["data"]]
    lines = [f"# {question.title} codex on {told['data']}, {told['budget']} of training each, one CPU thread, {day}", ""]
    lines += [question.told, "", f"| seed | steps | n | {' | '.join(question.figures)} |"]
    lines.append(f"|{'---|' * (len(question.figures) + 3)}")
    for row in told["rows"]:
        found = [row.get(name) for name in question.figures]
        n = min((some[3] for some in found if some), default=0)
        shown = " | ".join(f"{some[0]:.3f} [{some[1]:.3f}, {some[2]:.3f}]" if some else "-" for some in found)
        lines.append(f"| {row['seed']} | {row['step']} | {n} | {shown} |")
    return "\n".join([*lines, "", f"`benchmarks/programs.py`, load {told['load']:.1f} on {os.cpu_count()} cores.", ""])


if __name__ == "__main__":
    main()
