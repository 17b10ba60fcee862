"""How well gpt models the standard library's source: trained for its budget, scored on the whole held-out part.

    python benchmarks/code.py [--seeds 0,1] [--budget 600s] [--keep FOLDER] [--jobs 2]

Trained by `maquette train`, scored by `maquette eval`, one thread, in a process of its own; a run that FOLDER holds already is
not trained again. Floors beside it are compressors that see the training part first. Writes benchmarks/DATE-code.md and .json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from datetime import date
from pathlib import Path

import torch

from maquette.compare import pending, run_all, stages
from maquette.doctor import gemm
from maquette.runs import Run

BAR, AIM = 1.42, 1.30


def floors() -> str:
    """What the newest *-floors.json here says of compressors on the same split."""
    files = sorted(Path(__file__).parent.glob("*-floors.json"))
    if not files:
        return "none measured: run benchmarks/floors.py first"
    rows = json.loads(files[-1].read_text())["stdlib"]
    return ", ".join(f"{label} {bits:.3f}" for label, bits in rows.items()) + f" ({files[-1].name})"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", default="0,1")
    asked.add_argument("--budget", default="600s")
    asked.add_argument("--keep", default="", help="keep the runs in this folder")
    asked.add_argument("--jobs", type=int, default=2, help="seeds trained side by side")
    given = asked.parse_args()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    entries = []
    for seed in seeds:
        place = folder / f"gpt-seed{seed}"
        train, judge = stages("gpt", "stdlib", place, given.budget, 0, seed, {})
        entries.append(pending(place, [train, judge]))
    run_all(entries, jobs=given.jobs, quiet=False)
    torch.set_num_threads(1)
    lines = [
        f"# Code, {date.today()}",
        "",
        "`gpt` on the standard library's source, bits per byte of the whole held-out part.",
        f"Bar <= {BAR} at 600 CPU-s, aim {AIM}.",
        f"Floors: {floors()}.",
        f"One thread; matrix product {gemm(torch.bfloat16):.0f} GFLOP/s in bf16; torch {torch.__version__}.",
        "Trained at commits " + ", ".join(Run.open(e.folder).record["versions"]["git"][:8] for e in entries if not e.error) + ".",
        "",
        "| seed | CPU-s | steps | tokens seen | parameters | bits/byte | 95 % | met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    values = {}
    for seed, entry in zip(seeds, entries, strict=True):
        if entry.error:
            lines.append(f"| {seed} | failed: {entry.error} | | | | | | **no** |")
            continue
        told, record = json.loads((entry.folder / "eval.json").read_text()), Run.open(entry.folder).record
        found = told["metrics"]["bits/byte"]
        tokens = told["step"] * record["fit"]["batch"] * record["arguments"]["context"] / 1e6
        size = sum(told["parameters"].values()) / 1e6
        cells = [seed, f"{told['seconds']:.0f}", told["step"], f"{tokens:.2f} M", f"{size:.2f} M", f"{found['value']:.4f}"]
        cells += [f"{found['low']:.4f} .. {found['high']:.4f}", "yes" if found["value"] <= BAR else "**no**"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        values[str(seed)] = {"bits/byte": found["value"], "seconds": told["seconds"], "step": told["step"]}
    path = Path(__file__).parent / f"{date.today()}-code.md"
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps({"gpt": values}, indent=1) + "\n")
    print(path.read_text())
    if not given.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
