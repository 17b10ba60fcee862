"""A run is a folder: what was asked (run.json), what happened (log.jsonl), and checkpoints that can be trusted.

Knows recipes, training and storage; shows nothing and decides no exit code.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import maquette
from maquette import checkpoint, recipes, storage
from maquette.contracts import Comparing
from maquette.data import Facts, recall
from maquette.distributed import World
from maquette.experiment import Experiment, Fit
from maquette.storage import Damaged
from maquette.streams import mix
from maquette.system import System
from maquette.train import NotFinite, Progress, run

FORMAT = 1
KEPT = 2  # checkpoints kept beside a newer one
NEEDED = {"recipe": str, "arguments": dict, "seed": int, "fit": dict, "data": dict, "machine": dict}  # of run.json


class RunError(ValueError):
    """A run folder that cannot be used, and why."""


class StorageFull(OSError):
    """Checkpoints could not be written; the newest older one stays."""


class Stopped(Exception):
    """Asked to stop by a signal; a checkpoint has been committed."""

    def __init__(self, signum: int, step: int):
        self.signum, self.step = signum, step
        super().__init__(
            f"stopped by {signal.Signals(signum).name} at step {step}; a checkpoint was saved: resume continues from it"
        )


@dataclass(frozen=True)
class Report:
    """What a step tells whoever watches: the step's number and logs, and where a checkpoint or a warning came of it."""

    step: int
    steps: int
    seconds: float
    logs: dict[str, float] | None = None
    saved: Path | None = None
    warning: str = ""


class Run:
    """A run's folder. `record` is run.json: recipe, arguments, fit, seed, data facts, versions, machine."""

    def __init__(self, path: Path, record: dict[str, Any]):
        self.path, self.record, self.locked = path, record, False

    @classmethod
    def create(cls, path: Path, record: dict[str, Any]) -> Run:
        """A new run folder.

        Raises:
            RunError: there is a run already, or anything else that is not ours to write over.
        """
        cls.check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        made = cls(path, {"format": FORMAT, **record})
        with made.held():  # two that begin in one folder at once: the second finds the first's record
            cls.check_free(path)
            made.write_record()
        return made

    @staticmethod
    def check_free(path: Path) -> None:
        """Whether a new run may be made here.

        Raises:
            RunError: there is a run already, or anything else that is not ours to write over.
        """
        if (path / "run.json").exists():
            raise RunError(f"{path} already holds a run; `maquette resume {path}` continues it, --out names another folder")
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; --out names a folder")
        if path.is_dir() and any(p.name != ".lock" for p in path.iterdir()):
            raise RunError(f"{path} is not empty, and what is in it is no run; --out names another folder")

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run folder.

        Raises:
            RunError: it is missing, no run, of a newer format, or damaged.
        """
        path = Path(path)
        if not path.exists():
            near = recipes.nearest(path.name, [p.parent.name for p in path.parent.glob("*/run.json")])
            raise RunError(f"there is no run at {path}.{f' Did you mean {path.parent / near}?' if near else ''}")
        file = path / "run.json"
        if not file.exists():
            raise RunError(f"{path} is not a run: it has no run.json")
        try:
            record = json.loads(file.read_text())
            version = int(record["format"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged: {error}") from None
        if version > FORMAT:
            raise RunError(f"{file} is of format {version}; this maquette reads up to {FORMAT}: upgrade it")
        for name, kind in NEEDED.items():
            if not isinstance(record.get(name), kind):
                raise RunError(f"{file} is damaged: it has no '{name}' that is a {kind.__name__}")
        return cls(path, record)

    def write_record(self) -> None:
        storage.replace_durably(self.path / "run.json", (json.dumps(self.record, indent=1) + "\n").encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be this run's only writer; within it, it may be asked for again. The kernel lets go when the process dies, however.

        Raises:
            RunError: a live process holds it.
        """
        if self.locked:
            yield
            return
        handle = open(self.path / ".lock", "a+")  # noqa: SIM115 (open for as long as the lock is)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise RunError(
                    f"{self.path} is being written by process {handle.read().strip() or '?'}, which is alive"
                ) from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            self.locked = True
            yield
        finally:
            self.locked = False
            handle.close()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    @property
    def shelf(self) -> Path:
        return self.path / "checkpoints"

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders, oldest first. Whether one may be used only reading it tells."""
        return sorted(p for p in self.shelf.glob("step-*") if p.is_dir() and p.name.removeprefix("step-").isdigit())

    @property
    def ended(self) -> bool:
        """Whether a checkpoint was kept of its last step."""
        return any(int(p.name.removeprefix("step-")) >= self.record["fit"]["steps"] for p in self.checkpoints())

    def at(self, step: int) -> Path:
        """The folder of one step's checkpoint.

        Raises:
            RunError: there is none; the message lists those there are.
        """
        kept = [int(p.name.removeprefix("step-")) for p in self.checkpoints()]
        if step not in kept:
            near = f"; nearest is {min(kept, key=lambda other: abs(other - step))}" if kept else ""
            raise RunError(f"{self.path} has no checkpoint of step {step}; it has {', '.join(map(str, kept)) or 'none'}{near}")
        return self.shelf / f"step-{step:08d}"

    def save(self, system: System, progress: Progress) -> Path:
        """Commit a checkpoint of this step, then let go of those too old to keep.

        Raises:
            NotFinite: a weight is not; such a checkpoint is never made.
        """
        folder = self.shelf / f"step-{progress.step:08d}"
        if folder.exists() and _verifies(folder):
            return folder
        if spoilt := checkpoint.spoilt(system):
            raise NotFinite("save", progress.step, f"weight {spoilt}")
        storage.commit(folder, checkpoint.pack(system, progress))
        for old in self.checkpoints()[: -1 - KEPT]:
            storage.remove(old)
        return folder

    def newest(self) -> tuple[Path, dict[str, bytes], list[str]]:
        """The newest checkpoint that verifies, its files, and why each newer one was refused.

        Raises:
            RunError: none verifies.
        """
        refused: list[str] = []
        for folder in reversed(self.checkpoints()):
            try:
                return folder, storage.read_verified(folder), refused
            except Damaged as error:
                refused.append(str(error))
        why = "; ".join(refused) or "training stopped before the first was saved"
        raise RunError(f"{self.path} has no checkpoint that can be used: {why}")

    # -- the log -------------------------------------------------------------------------------------------------------

    def log(self, row: dict[str, float]) -> None:
        with open(self.path / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, float]]:
        """The log's rows; a last line that a kill cut short is passed over."""
        path, found = self.path / "log.jsonl", []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "step" in row:
                found.append(row)
        return found

    def forget_after(self, step: int) -> None:
        """Drop log rows of steps that will be taken again."""
        kept = "".join(json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step)
        storage.replace_durably(self.path / "log.jsonl", kept.encode())


def _verifies(folder: Path) -> bool:
    try:
        storage.read_verified(folder)
    except Damaged:
        return False
    return True


# -- from a record to an experiment --------------------------------------------------------------------------------------

FIT_OPTIONS: dict[str, Any] = {f.name: f.default for f in fields(Fit)}


def build(recipe: str, arguments: dict[str, Any], seed: int) -> tuple[Experiment, dict[str, Any]]:
    """Call a recipe; returns its experiment and the checked arguments. Fit options among them override the recipe's fit.

    An argument that names another run, or a published pipeline, is made absolute: what was built on it can then be opened from
    any folder.

    Raises:
        ValueError: an argument the recipe does not have, or of the wrong type, or out of range.
    """
    checked = recipes.check(recipe, arguments, also=FIT_OPTIONS)
    for name, value in checked.items():
        if isinstance(value, str) and value and any((Path(value) / file).is_file() for file in ("run.json", "model_index.json")):
            checked[name] = str(Path(value).resolve())
    function = recipes.find(recipe)
    own = {k: v for k, v in checked.items() if k in recipes.signature(function)}
    torch.manual_seed(mix(seed))
    experiment = function(**own)
    changed = replace(experiment.fit, **{k: v for k, v in checked.items() if k not in own})
    return replace(experiment, fit=changed), checked


def record_of(recipe: str, arguments: dict[str, Any], seed: int, experiment: Experiment) -> dict[str, Any]:
    """What run.json says of a run before its first step."""
    runs = [value for value in arguments.values() if isinstance(value, str) and value and (Path(value) / "run.json").is_file()]
    objective = experiment.system.objective
    return {
        "recipe": recipe,
        "arguments": {**recipes.signature(recipes.find(recipe)), **arguments},
        "built_on": {path: Run.open(path).record for path in runs},
        "seed": seed,
        "fit": asdict(experiment.fit),
        "data": experiment.data.facts.asdict(),
        "draws": experiment.system.sampler is not None,
        "makes": experiment.system.codec.field,
        "converses": bool(getattr(experiment.system.codec, "converses", False)),
        "compares": list(objective.sides) if isinstance(objective, Comparing) else [],
        "parameters": {k: sum(p.numel() for p in net.parameters()) for k, net in experiment.system.roles().items()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "versions": versions(),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": str(experiment.system.device),
        },
    }


def versions() -> dict[str, str]:
    """Versions that a result may depend on, and the git commit where there is one."""
    try:
        here = Path(__file__).parent
        git = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        git = ""
    return {"maquette": maquette.__version__, "torch": torch.__version__, "python": platform.python_version(), "git": git}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def rebuild(found: Run, trust: bool = False) -> Experiment:
    """A run's experiment from its record alone: the data is opened only when rows are asked for.

    Args:
        trust: import the code outside maquette that the record may name.

    Raises:
        RunError: it names such code, and nobody said to trust it; or its record fits no recipe.
    """
    module = found.record["recipe"].rpartition(":")[0]
    if module and not trust and module not in sys.modules and not module.startswith("maquette."):
        raise RunError(
            f"{found.path} was made by '{found.record['recipe']}', code outside maquette that opening it would run; "
            "if you trust it, say --trust (in Python, trust=True, or import it first)"
        )
    known = {k: v for k, v in found.record["arguments"].items() if k not in FIT_OPTIONS}
    kept = found.record.get("built_on", {}) if found.checkpoints() else {}  # the weights of those runs are in its own checkpoint
    token = _remembered.set({**(_remembered.get() or {}), **kept})
    try:
        with recall(Facts.of(found.record["data"])):
            experiment, _ = build(found.record["recipe"], known, found.record["seed"])
    finally:
        _remembered.reset(token)
    try:
        fit = Fit(**{**found.record["fit"], "betas": tuple(found.record["fit"]["betas"])})
    except (TypeError, KeyError) as error:
        raise RunError(f"{found.path / 'run.json'} is damaged: its 'fit' is none of this maquette's ({error})") from None
    return replace(experiment, fit=fit)


_remembered: ContextVar[dict[str, Any] | None] = ContextVar(
    "remembered", default=None
)  # path -> record, of runs that were built on


def trained(path: str) -> tuple[Run, Experiment]:
    """A run's experiment with its newest weights, on the CPU, for a recipe that builds on it. Draws no randomness.

    While a run that was built on it is opened again, the record kept there serves where the folder is gone: the weights come
    with that run's own checkpoint.

    Raises:
        RunError: no such run, or none of its checkpoints can be used.
    """
    kept = (_remembered.get() or {}).get(path)
    gone = kept is not None and not (Path(path) / "run.json").exists()
    found = Run(Path(path), kept) if kept is not None and gone else Run.open(path)
    files = None if gone else found.newest()[1]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # weights have values, also where a system is built on meta
        experiment = rebuild(found)
        if files is not None:
            checkpoint.restore(files, experiment.system)
    experiment.system.eval()
    return found, experiment


# -- fitting -------------------------------------------------------------------------------------------------------------


@contextmanager
def signals() -> Iterator[list[int]]:
    """Within: the first SIGINT or SIGTERM is noted in the list, a second one acts as it always does."""
    caught: list[int] = []
    before: dict[int, Any] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        caught.append(signum)
        signal.signal(signum, before[signum])

    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            before[signum] = signal.signal(signum, note)
    except ValueError:  # not the main thread: whoever runs us handles signals
        pass
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(
    found: Run, experiment: Experiment, progress: Progress, world: World, every: int = 0, stop_on_full: bool = False
) -> Iterator[Report]:
    """Train to the end of the plan, logging and saving; yields a report per step.

    Args:
        every: steps between checkpoints (0 = five over the run).
        stop_on_full: stop at the first checkpoint that cannot be written, not at the third in a row.

    Raises:
        Stopped: by SIGINT or SIGTERM, after a checkpoint.
        StorageFull: checkpoints cannot be written.
        NotFinite: a loss or gradient was not finite; the newest checkpoint is from before it.
    """
    steps = progress.fit.steps
    if every < 0:
        raise ValueError(f"--checkpoint-every {every} is not above 0")
    every = every or max(1, -(-steps // 5))
    often = max(1, steps // 200)
    began, failures = time.time(), 0
    with signals() as caught:
        for logs in run(experiment.system, experiment.data, progress, world):
            step, last = progress.step, progress.step >= steps
            report = Report(step, steps, progress.seconds)
            if step % often == 0 or last or step == 1:
                row = {"step": step, "seconds": round(progress.seconds, 3), "wall": round(time.time() - began, 3)}
                row.update({name: float(value) for name, value in logs.items()})
                report = replace(report, logs=row)
                if world.first:
                    try:
                        found.log(row)
                    except OSError as error:  # a checkpoint decides whether to go on
                        report = replace(report, warning=f"log.jsonl could not be written ({error.strerror})")
            stop = caught[0] if caught and not last else 0  # one that comes later is answered at the next step
            if (step % every == 0 or last or stop) and world.first:
                try:
                    report, failures = replace(report, saved=found.save(experiment.system, progress)), 0
                except OSError as error:
                    failures += 1
                    report = replace(report, warning=_storage(error, found))
                    if failures >= 3 or stop_on_full or last or stop:
                        raise StorageFull(error.errno, report.warning) from None
            yield report
            if stop:
                raise Stopped(stop, step)


def _storage(error: OSError, found: Run) -> str:
    why = "disk full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"{error.strerror}"
    kept = found.checkpoints()
    stays = f"the checkpoint {kept[-1].name} stays" if kept else "there is no older checkpoint"
    return f"a checkpoint could not be written to {found.shelf} ({why}); {stays}"
