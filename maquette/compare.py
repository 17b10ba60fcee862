"""Several families, the same data, the same budget: each trained and scored in a process of its own, then set side by side.

A process per system isolates memory, threads and crashes; one that fails is a row with its error, not the end of the rest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maquette import exhibits, recipes
from maquette.data import open_data
from maquette.experiment import seconds_of
from maquette.report.bar import Board
from maquette.report.page import write_page
from maquette.report.ranking import rankings
from maquette.runs import FIT_OPTIONS, Run, RunError, versions
from maquette.storage import replace_durably

PLAN = "plan.json"  # what was asked, in a comparison's folder
Stage = tuple[str, list[str]]  # what it is called while it runs, and its command


@dataclass
class Entry:
    """One system on its way through training and scoring; or the baselines, which are only scored."""

    name: str
    folder: Path
    stages: list[Stage]
    recipe: str = ""
    seed: int = 0
    stage: int = -1
    process: subprocess.Popen[bytes] | None = None
    error: str = ""

    @property
    def over(self) -> bool:
        return bool(self.error) or self.stage >= len(self.stages)

    def launch(self) -> None:
        """Start the next stage, one thread, its words kept beside the run."""
        self.stage += 1
        if self.over:
            return
        with open(self.folder.with_suffix(".log"), "ab") as words:
            env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            self.process = subprocess.Popen(self.stages[self.stage][1], stdout=words, stderr=words, env=env)

    def poll(self) -> None:
        """Go on to the next stage when this one ends; keep the last words of one that fails."""
        code = self.process.poll() if self.process else 0
        if code is None:
            return
        if code:
            words = self.folder.with_suffix(".log").read_text(errors="replace").strip().splitlines()
            told = next((line for line in reversed(words) if line.strip()), "")
            self.error = f"{self.stages[self.stage][0]} ended with code {code}: {told.removeprefix('error: ')}"
        else:
            self.launch()

    def progress(self) -> tuple[str, float]:
        """What it is doing and which share of that is done."""
        if self.over:
            return ("failed" if self.error else "done"), 1.0
        stage = self.stages[self.stage][0]
        if stage != "training":
            return stage, 1.0
        try:
            found = Run.open(self.folder)
            rows = found.rows()
            return stage, rows[-1]["step"] / found.record["fit"]["steps"] if rows else 0.0
        except RunError:
            return "planning", 0.0


def compare(
    data: str,
    names: list[str],
    *,
    budget: str | float = "",
    steps: int = 0,
    out: str | Path = "runs/compare",
    seed: int = 0,
    seeds: Sequence[int] = (),
    n: int = 0,
    jobs: int = 0,
    quiet: bool = False,
    arguments: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train and score each recipe on `data`; writes compare.json and report.html into `out` and returns the former.

    One that was stopped goes on when the same is asked again: what is trained stays, what is half trained is resumed.

    Args:
        seed: that each recipe is trained with.
        seeds: several, in its place: each recipe is trained once with each, and the ranks say how far their order holds.
        n: samples that each is judged by; 0 = as many as there are training rows, at most 10,000.

    Raises:
        ValueError: an unknown recipe, data set or option; neither budget nor steps, or both.
        RunError: `out` already holds a comparison, or the beginning of another one.
    """
    out = Path(out)
    names, arguments, seeds = [recipes.named(name) for name in names], arguments or {}, _seeds(seed, seeds)
    _check(names, data, arguments)
    if bool(budget) == bool(steps):
        raise ValueError("say how long to train each: a budget (--budget 60s) or a number of steps (--steps 1000), one of them")
    for option, value in (("--steps", steps), ("--jobs", jobs), ("-n", n)):
        if value < 0:
            raise ValueError(f"{option} {value} is not above 0")
    if budget:
        seconds_of(budget)
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; --out names a folder")
    planned = [(name, one, out / (f"{name}-seed{one}" if len(seeds) > 1 else name)) for name in names for one in seeds]
    asked = {"data": data, "recipes": names, "budget": str(budget), "steps": steps, "seeds": list(seeds), "n": n, **arguments}
    asked = json.loads(json.dumps(asked))  # as it is read again
    _check_free(out, [folder for _, _, folder in planned], asked)
    facts = open_data(data, int(arguments.get("size", 0))).facts
    out.mkdir(parents=True, exist_ok=True)
    replace_durably(out / PLAN, (json.dumps(asked, indent=1) + "\n").encode())
    entries = [
        pending(folder, stages(name, data, folder, budget, steps, one, arguments, n), name, one) for name, one, folder in planned
    ]
    floors = _baselines(data, out, int(arguments.get("size", 0)), seeds[0])
    run_all([*entries, floors], jobs or len(os.sched_getaffinity(0)), quiet)
    rows = [_row(entry) for entry in entries]
    told = {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["maquette", *sys.argv[1:]]),
        "data": facts.asdict(),
        "budget": str(budget or f"{steps} steps"),
        "seed": seeds[0],
        "seeds": list(seeds),
        "machine": next((Run.open(e.folder).record["machine"] for e in entries if (e.folder / "run.json").exists()), {}),
        "versions": versions(),
        "rows": rows,
        "rankings": [found.asdict() for found in rankings(rows)],
        "floors": {} if floors.error else json.loads((out / "baselines.json").read_text()),
    }
    replace_durably(out / "compare.json", (json.dumps(told, indent=1) + "\n").encode())
    write_page(out / "report.html", told, [_shown(entry) for entry in entries if not entry.error])
    return told


def _check_free(out: Path, folders: list[Path], asked: dict[str, Any]) -> None:
    """That nothing is in the way: no comparison that ended, and none that began otherwise."""
    if (out / "compare.json").exists():
        raise RunError(f"{out} already holds a comparison; --out names another folder")
    if not any((folder / "run.json").exists() for folder in folders):
        return
    began = json.loads((out / PLAN).read_text()) if (out / PLAN).exists() else {}
    other = [f"{key} {began.get(key)} and not {asked.get(key)}" for key in {**began, **asked} if began.get(key) != asked.get(key)]
    if other:
        raise RunError(
            f"{out} already holds the beginning of a comparison of {', '.join(other)}: ask the same to go on, or name another "
            "folder with --out"
        )


def _seeds(seed: int, seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds to train with."""
    if seeds and seed:
        raise ValueError(f"give --seed {seed} or --seeds {','.join(map(str, seeds))}, not both")
    if twice := [one for one in dict.fromkeys(seeds) if list(seeds).count(one) > 1]:
        raise ValueError(f"--seeds names {', '.join(map(str, twice))} twice")
    return tuple(seeds) or (seed,)


def _check(names: list[str], data: str, arguments: dict[str, Any]) -> None:
    """That there are recipes, each named once, and options that at least one of them has, of its type."""
    if not names:
        raise ValueError("name at least one recipe to compare")
    known = {name: recipes.signature(recipes.find(name)) for name in names}
    for name in names:
        options = {k: v for k, v in {"data": data, **arguments}.items() if k in known[name] or len(names) == 1}
        recipes.check(name, options, also=FIT_OPTIONS)
    allowed = {*FIT_OPTIONS, *(key for own in known.values() for key in own)}
    for key in arguments:
        if key not in allowed:
            raise recipes.UnknownName("option", key, sorted(allowed))
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"recipe {', '.join(sorted(twice))} is named twice")


def stages(
    name: str, data: str, folder: Path, budget: Any, steps: int, seed: int, arguments: dict[str, Any], n: int = 0
) -> list[Stage]:
    """The commands that train a recipe into `folder` and then score it."""
    base = [sys.executable, "-m", "maquette"]
    length = ["--steps", str(steps)] if steps else ["--budget", str(budget)] if budget else []
    known = {**FIT_OPTIONS, **recipes.signature(recipes.find(name))}
    own = [f"--{key.replace('_', '-')}={value}" for key, value in arguments.items() if key in known]
    train = [
        *base,
        "train",
        name,
        "--data",
        data,
        *length,
        "--seed",
        str(seed),
        "--out",
        str(folder),
        "--threads",
        "1",
        "--quiet",
    ]
    judge = [*base, "eval", str(folder), "--threads", "1", "--json", *(["-n", str(n)] if n else [])]
    judge += ["--trust"] if ":" in name else []
    return [("training", [*train, *own]), ("scoring", judge)]


def pending(folder: Path, stages: list[Stage], recipe: str = "", seed: int = 0) -> Entry:
    """A system's way through what its folder does not hold yet: training, or what is left of it, and scoring; or nothing."""
    (name, _), judge = left = stages
    if (folder / "eval.json").exists():
        left = []
    elif (folder / "run.json").exists():
        found = Run.open(folder)
        more = [word for word in judge[1] if word == "--trust"]
        again = [sys.executable, "-m", "maquette", "resume", str(folder), "--quiet", *more]
        left = [judge] if found.ended else [(name, again), judge]
    return Entry(folder.name, folder, left, recipe, seed)


def run_all(entries: list[Entry], jobs: int, quiet: bool) -> None:
    """Run every entry to its end, `jobs` at a time; on any way out, SIGTERM too, leave no process behind."""
    board = None if quiet else Board([entry.name for entry in entries])
    waiting, live = list(entries), list[Entry]()
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number)) if here else None
    try:
        while waiting or live:
            while waiting and len(live) < jobs:
                live.append(waiting.pop(0))
                live[-1].launch()
            time.sleep(0.2)
            for entry in live:
                entry.poll()
            live = [entry for entry in live if not entry.over]
            if board:
                board.show({entry.name: entry.progress() for entry in entries if entry not in waiting})
    finally:
        if board:
            board.close()
        for entry in live:
            if entry.process and entry.process.poll() is None:
                entry.process.terminate()
        for entry in live:
            if entry.process:
                entry.process.wait(30)
        if here:
            signal.signal(signal.SIGTERM, before)


def _baselines(data: str, out: Path, size: int, seed: int) -> Entry:
    """What trivial generators score on the same data, under the same metrics."""
    path = out / "baselines.json"
    command = [sys.executable, "-m", "maquette", "baselines", "--data", data, "--size", str(size), "--seed", str(seed)]
    scoring = ("scoring", [*command, "--out", str(path), "--threads", "1", "--json"])
    return Entry("baselines", out / "baselines", [] if path.exists() else [scoring])


def _row(entry: Entry) -> dict[str, Any]:
    if entry.error:
        about = {"recipe": entry.recipe, "run": str(entry.folder), "training_seed": entry.seed}
        return {"status": "failed", "error": entry.error, **about, "metrics": {}}
    return {"status": "ok", "error": "", "training_seed": entry.seed, **json.loads((entry.folder / "eval.json").read_text())}


def _shown(entry: Entry) -> dict[str, Any]:
    """A finished run as the report shows it."""
    found = Run.open(entry.folder)
    told = json.loads((entry.folder / "eval.json").read_text())
    return {
        "eval": told,
        "log": found.rows(),
        "facts": found.record["data"],
        **exhibits.read(entry.folder / "samples" / "eval.npz"),
    }
