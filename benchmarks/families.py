"""Seven families on one data set by two seeds: `maquette compare`, and whether its order holds; losses included.

    python benchmarks/families.py [--data font_digits] [--recipes vae,flow] [--budget 60s] [--seeds 0,1] [--folder FOLDER]

Runs the one command, or reads what a finished one left in FOLDER (compare.json).
Writes benchmarks/DATE-compare-DATA.md and .json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

SEVEN = "vae,vqgan-prior,stylegan2,pixelcnn,flow,dit,consistency"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", default="font_digits")
    asked.add_argument("--recipes", default=SEVEN)
    asked.add_argument("--budget", default="60s")
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("-n", type=int, default=1000)
    asked.add_argument("--jobs", default="1")
    asked.add_argument("--folder", default="")
    given = asked.parse_args()
    folder = Path(given.folder or tempfile.mkdtemp(prefix="maquette-families-"))
    if not (folder / "compare.json").exists():
        words = ["compare", "--data", given.data, "--recipes", given.recipes, "--budget", given.budget, "--seeds", given.seeds]
        words += ["-n", str(given.n), "--jobs", given.jobs, "--out", str(folder)]
        subprocess.run([sys.executable, "-m", "maquette", *words], check=True)
    told = json.loads((folder / "compare.json").read_text())
    path = Path(__file__).parent / f"{date.today()}-compare-{told['data']['name']}.md"
    path.write_text(table(told) + "\n")
    figures = {
        Path(row["run"]).name: {key: found["value"] for key, found in row["metrics"].items()} | {"seconds": row["seconds"]}
        for row in told["rows"]
    }
    verdicts = {ranking["metric"]: {"verdict": ranking["verdict"], "ranks": ranking["ranks"]} for ranking in told["rankings"]}
    path.with_suffix(".json").write_text(json.dumps({"figures": figures, "rankings": verdicts}, indent=1) + "\n")
    print(path.read_text())


def table(told: dict[str, Any]) -> str:
    """Each figure's order with each seed and whether it holds; then every figure of every run."""
    words = shlex.split(told["command"])
    if "--out" in words:  # a folder of this machine
        at = words.index("--out")
        del words[at : at + 2]
    verdicts = [ranking["verdict"] for ranking in told["rankings"]]
    lines = [
        f"# Families on {told['data']['name']}, {date.today()}",
        "",
        f"`{shlex.join(words)}`",
        "",
        f"One thread each, trained at commit {told['versions']['git'][:8]}, torch {told['versions']['torch']}. Losses included.",
        f"Of {len(verdicts)} figures over seeds {told['seeds']}, {verdicts.count('stable')} keep their order, "
        f"{verdicts.count('swaps')} swap some pair that both seeds tell apart, {verdicts.count('open')} tell nobody apart.",
        "",
        "Ranks: 1 + how many are better beyond the intervals' doubt; in brackets with each seed.",
        "",
        "| figure | order | holds | pairs agreed | swapped | tau |",
        "|---|---|---|---|---|---|",
    ]
    for found in told["rankings"]:
        order = ", ".join(f"{name} {_mean(ranks):g} ({' '.join(map(str, ranks))})" for name, ranks in found["ranks"].items())
        pairs = len(found["agreed"]) + len(found["swapped"]) + len(found["tied"])
        swapped = ", ".join("/".join(pair) for pair in found["swapped"]) or "-"
        tau = "-" if found["tau"] is None else f"{found['tau']:.2f}"
        lines.append(
            f"| {found['metric']} | {order} | {found['verdict']} | {len(found['agreed'])} of {pairs} | {swapped} | {tau} |"
        )
    lines += ["", "## Everything measured", ""]
    for row in told["rows"]:
        shown = "; ".join(f"{key} {f['value']:.3f} ({f['low']:.3f} .. {f['high']:.3f})" for key, f in row["metrics"].items())
        lines.append(f"- `{Path(row['run']).name}`: {row['step']} steps, {row['seconds']:.0f} CPU-s. {shown or row['error']}")
    return "\n".join(lines)


def _mean(ranks: list[int]) -> float:
    return sum(ranks) / len(ranks)


if __name__ == "__main__":
    main()
