"""The verbs: train, resume, sample, evaluate, compare, compress, decompress, load, show, doctor.

The command line says the same ones. Knows runs, reports and how work is shown; decides no exit code and parses no command line.
"""

from __future__ import annotations

import glob
import json
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from maquette import checkpoint, exhibits, lossless, parcel, recipes, storage
from maquette.baselines import judge_baselines
from maquette.compare import compare
from maquette.completion import fitting, occluded
from maquette.contracts import IGNORE, Batch, Code, NeedsStart, Sampler
from maquette.data import Data, Facts, open_data
from maquette.distributed import World, join, leave
from maquette.doctor import doctor
from maquette.evaluate import choose, judge, undisturbed
from maquette.experiment import Experiment, seconds_of
from maquette.metrics.evidence import Evidence
from maquette.report.bar import Bar
from maquette.report.card import write_card
from maquette.report.page import write_run_page
from maquette.report.pictures import check_suffix, save_samples
from maquette.runs import Report, Run, build, fit, rebuild, record_of
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, plan, ready

__all__ = ["baselines", "compare", "compress", "decompress", "doctor", "evaluate", "load", "resume", "sample", "show", "train"]


@dataclass(frozen=True)
class Loaded:
    """A run, open: its system with a checkpoint's weights, its data (read when asked for), its progress."""

    run: Run
    experiment: Experiment
    progress: Progress
    refused: tuple[str, ...] = ()  # newer checkpoints that did not verify, and why

    @property
    def system(self) -> System:
        return self.experiment.system

    @property
    def data(self) -> Data:
        return self.experiment.data

    @property
    def facts(self) -> Facts:
        return self.experiment.data.facts

    def sample(
        self,
        n: int = 16,
        *,
        seed: int = 0,
        about: dict[str, Any] | None = None,
        prompt: str = "",
        start: Code | None = None,
        sampler: Sampler | None = None,
    ) -> Batch:
        """n samples.

        Args:
            about: what to make, e.g. {"label": 3}.
            prompt: how a text begins.
            start: what each sample grows from, as `System.sample` has it; `completion.occluded` makes one of pictures.
            sampler: another than the run's own.
        """
        if n < 1:
            raise ValueError(f"n is {n}; it must be 1 or more")
        sampler = sampler or self.system.sampler
        told = _told(self.facts, about or {}, n)
        if prompt:
            start = _prompted(self.system, prompt, n, sampler)
        elif start is not None and told is None:
            told = fitting(self.system, start, Streams.of(seed, n, device=self.system.device).fork(2)) or None
        return self.system.sample(n, about=told, start=start, seed=seed, sampler=sampler)

    def occluded(self, source: str | Path, n: int, part: str = "bottom") -> Code:
        """The start of n samples from a picture, a folder of them or an .npz, in turn, `part` of each hidden."""
        if self.system.codec.field != "image":
            raise ValueError(f"this run makes {self.system.codec.field}s; only pictures have parts to hide")
        images = parcel.pictures(Path(source), self.facts)[0]
        if not len(images):
            raise ValueError(f"{source} has no picture in it")
        rows = images[torch.arange(n) % len(images)]
        return occluded(self.system.codec, rows.to(self.system.device), part)


def load(path: str | Path | Run, *, step: int | None = None, device: str = "auto", trust: bool = False) -> Loaded:
    """Open a run with its newest checkpoint that verifies (or that of `step`). Needs no data on this machine.

    A run made by a recipe of your own names code to import: that is done if it is imported already, or with `trust`.

    Raises:
        RunError: no such run, none of its checkpoints can be used, or it names code that nobody said to trust.
    """
    found = path if isinstance(path, Run) else Run.open(path)
    refused: list[str] = []
    if step is None:
        _, files, refused = found.newest()
    else:
        files = storage.read_verified(found.at(step))
    for reason in refused:
        print(f"passed over: {reason}", file=sys.stderr)
    experiment = rebuild(found, trust)
    experiment.system.to(pick_device(device))
    progress = checkpoint.restore(files, experiment.system)
    experiment.system.eval()
    return Loaded(found, experiment, progress, tuple(refused))


def pick_device(name: str = "auto") -> torch.device:
    """`auto`: this process's GPU if there is one, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from None


# -- train and resume ----------------------------------------------------------------------------------------------------


def begin(
    recipe: str,
    arguments: dict[str, Any],
    *,
    out: str | Path = "",
    steps: int = 0,
    budget: str | float = 0,
    seed: int = 0,
    device: str = "auto",
    world: World | None = None,
) -> Loaded:
    """A new run, planned but not yet trained: its folder made, its codec learnt, its number of steps fixed.

    Raises:
        ValueError: an unknown recipe or option, a value out of range, steps and budget both given.
        RunError: the folder holds a run already.
    """
    world = world or World()
    if steps and budget:
        raise ValueError(f"give --steps {steps} or --budget {budget}, not both")
    if steps < 0 or steps != int(steps):
        raise ValueError(f"--steps {steps} is not a whole number above 0")
    spend = seconds_of(budget) if budget else 0.0
    recipe = recipes.named(recipe)
    experiment, checked = build(recipe, arguments, seed)
    folder = Path(out) if out else _fresh(recipe, experiment.data.facts)
    if world.first:
        Run.check_free(folder)  # before the work of planning
    system = experiment.system.to(pick_device(device))
    system.codec.learn(experiment.data.train)
    if experiment.fit.batch > (rows := len(experiment.data.train)) > 0:
        experiment = replace(experiment, fit=replace(experiment.fit, batch=rows - rows % world.size))
    ready(system, experiment.fit)
    planned, setup = (replace(experiment.fit, steps=steps), 0.0) if steps else (experiment.fit, 0.0)
    if budget:
        planned, setup = plan(system, experiment.data, experiment.fit, spend, seed)
        agreed = torch.tensor([float(planned.steps)])
        world.mean_([agreed])
        planned = replace(planned, steps=max(1, int(agreed)))
    experiment = replace(experiment, fit=planned)
    record = record_of(recipe, checked, seed, experiment)
    record.update({"budget": spend, "setup_seconds": round(setup, 2)})
    made = Run.create(folder, record) if world.first else Run(folder, record)
    world.wait()
    return Loaded(made, experiment, Progress(planned, seed))


def _fresh(recipe: str, facts: Facts) -> Path:
    """The first free runs/RECIPE-DATA-N."""
    stem = f"{recipe.rpartition(':')[2]}-{Path(facts.name).name}"
    ends = [path.name.rpartition("-")[2] for path in Path("runs").glob(f"{glob.escape(stem)}-*")]
    taken = [int(end) for end in ends if end.isdigit()]
    return Path("runs") / f"{stem}-{max(taken, default=0) + 1}"


def pursue(session: Loaded, world: World, *, every: int = 0, stop_on_full: bool = False, quiet: bool = False) -> Loaded:
    """Train a session to the end of its plan: bar, TensorBoard events, previews at checkpoints, and at last the card."""
    found, progress = session.run, session.progress
    with ExitStack() as stack:
        if world.first:
            stack.enter_context(found.held())
            storage.sweep(found.shelf)
        shown = world.first and not quiet
        if shown and not progress.step:
            _tell(session.facts)
        bar = (
            stack.enter_context(Bar(f"{found.record['recipe']} on {session.facts.name}", progress.fit.steps, progress.fit.batch))
            if shown
            else None
        )
        events = stack.enter_context(_events(found.path)) if world.first else None
        for report in fit(found, session.experiment, progress, world, every, stop_on_full):
            if bar:
                bar.step(report)
            elif report.warning:
                print(f"warning: {report.warning}", file=sys.stderr)
            if events and report.logs:
                _write_events(events, report)
            if report.saved:
                _preview(session, report.step)
        if world.first:
            write_card(found.path / "README.md", found.record, _read(found.path / "eval.json"))
    session.system.eval()
    return session


def _tell(facts: Facts, most: int = 20) -> None:
    """What the user should know of the data before it is trained on: what was left out and why. On stderr."""
    lines = [f"{file}: {reason}" for file, reason in facts.skipped]
    told = [f"{len(lines)} files were skipped:", *(f"  {line}" for line in lines[:most])] if lines else []
    told += [f"  ... and {len(lines) - most} more, all in run.json"] if len(lines) > most else []
    for line in [*told, *(f"note: {note}" for note in facts.notes)]:
        print(line, file=sys.stderr)


@contextmanager
def _events(path: Path) -> Iterator[Any]:
    """TensorBoard's event file of a run."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(path))
    try:
        yield writer
    finally:
        writer.close()


def _write_events(events: Any, report: Report) -> None:
    for name, value in (report.logs or {}).items():
        if name != "step":
            events.add_scalar(f"train/{name}", value, report.step)


def _preview(session: Loaded, step: int) -> None:
    """Sixteen samples beside the checkpoint. A preview that fails is no reason to stop training."""
    field = session.system.codec.field
    suffix = {"image": "png", "text": "txt"}.get(field, "npz")
    path = session.run.path / "samples" / f"step-{step:08d}.{suffix}"
    try:
        n = 2 if field == "text" else 16
        try:
            batch = session.system.sample(n, seed=0)
        except NeedsStart:  # show what it makes of held-out rows
            given = session.data.held.rows(torch.arange(min(n, len(session.data.held))))
            with torch.no_grad():
                start = session.system.eval().encode(given)
            batch = session.system.sample(len(start), start=start, seed=0)
        save_samples(batch, field, path, {"run": session.run.path.name, "step": step, "seed": 0})
    except (RuntimeError, ValueError, OSError) as error:
        session.run.log({"step": step, "preview_failed": str(error)})  # type: ignore[dict-item]


def train(
    recipe: str,
    *,
    out: str | Path = "",
    steps: int = 0,
    budget: str | float = 0,
    seed: int = 0,
    checkpoint_every: int = 0,
    stop_on_full: bool = False,
    device: str = "auto",
    quiet: bool = False,
    **arguments: Any,
) -> Loaded:
    """Train a recipe to the end and return the run, open. `arguments` are the recipe's own, or an option of Fit such as lr.

    Args:
        out: the run's folder; by default runs/RECIPE-DATA-N, N counting up.
        steps: optimizer steps; or
        budget: training seconds, "60s", "10m", "1h": CPU-seconds on a CPU, GPU-seconds beside one.
        checkpoint_every: steps between checkpoints (0 = five over the run).
    """
    world = join()
    session = begin(recipe, arguments, out=out, steps=steps, budget=budget, seed=seed, device=device, world=world)
    session = pursue(session, world, every=checkpoint_every, stop_on_full=stop_on_full, quiet=quiet)
    leave()  # a process that ends while its group still listens may abort
    return session


def resume(
    path: str | Path,
    *,
    steps: int = 0,
    checkpoint_every: int = 0,
    stop_on_full: bool = False,
    device: str = "auto",
    quiet: bool = False,
    trust: bool = False,
) -> Loaded:
    """Continue a run from its newest checkpoint that verifies, bit for bit; `steps` moves its end.

    A run that was stopped before its first checkpoint begins again from step 0, as it would have.

    Raises:
        ValueError: `steps` is not beyond what the run has done.
    """
    world = join()
    found = Run.open(path)
    with ExitStack() as stack:
        if world.first:
            stack.enter_context(found.held())
        session = _reopened(found, world, steps, device, trust)
        session = pursue(session, world, every=checkpoint_every, stop_on_full=stop_on_full, quiet=quiet)
    leave()
    return session


def _reopened(found: Run, world: World, steps: int, device: str, trust: bool) -> Loaded:
    """A run as it was at its newest checkpoint, or at its beginning where it has none; the log ends where it does."""
    torch.set_num_threads(found.record["machine"]["threads"])  # another number of threads adds in another order
    if found.checkpoints():
        session = load(found, device=device, trust=trust)
    else:
        experiment = rebuild(found, trust)
        experiment.system.to(pick_device(device))
        experiment.system.codec.learn(experiment.data.train)
        session = Loaded(found, experiment, Progress(experiment.fit, found.record["seed"]))
    if steps:
        if steps <= session.progress.step:
            raise ValueError(f"--steps {steps} is not beyond step {session.progress.step}, which this run has reached")
        session.progress.fit = replace(session.progress.fit, steps=steps)
        found.record["fit"]["steps"] = steps
        if world.first:
            found.write_record()
    if world.first:
        found.forget_after(session.progress.step)
    ready(session.system, session.progress.fit)
    world.wait()
    return session


# -- sample --------------------------------------------------------------------------------------------------------------


def sample(
    path: str | Path,
    n: int = 16,
    *,
    out: str | Path = "",
    seed: int = 0,
    about: dict[str, Any] | None = None,
    prompt: str = "",
    start: str | Path = "",
    hide: str = "bottom",
    dials: dict[str, Any] | None = None,
    step: int | None = None,
    device: str = "auto",
    trust: bool = False,
) -> Batch:
    """Draw n samples from a run, and write them by `out`'s suffix (.png, .npz, .txt, .json) if it is given.

    Args:
        start: pictures to complete: a file, a folder or an .npz, of which `hide` (bottom, top, left, right, middle) is unseen.
        dials: fields of the run's sampler, changed for this call: {"steps": 50, "guidance": 2}.
    """
    if n < 1:
        raise ValueError(f"-n {n} is not above 0")
    found = load(path, step=step, device=device, trust=trust)
    if out:
        check_suffix(found.system.codec.field, Path(out))
    sampler = turned(found.system.sampler, dials or {})
    begun = found.occluded(start, n, hide) if start else None
    batch = found.sample(n, seed=seed, about=about, prompt=prompt, start=begun, sampler=sampler)
    if out:
        info = {"run": str(path), "recipe": found.run.record["recipe"], "step": found.progress.step, "seed": seed}
        save_samples(batch, found.system.codec.field, Path(out), {**info, "about": about or {}, "sampler": described(sampler)})
    return batch


def turned(sampler: Sampler, dials: dict[str, Any]) -> Sampler:
    """A sampler with some of its dials turned.

    Raises:
        UnknownName: it has no such dial.
        ValueError: a value it does not take.
    """
    now = dials_of(sampler)
    for key in dials:
        if key not in now:
            raise recipes.UnknownName(f"dial of {type(sampler).__name__}", key, list(now))
    return replace(sampler, **{k: recipes.coerce(k, v, now[k]) for k, v in dials.items()})  # type: ignore[type-var]


def dials_of(sampler: Sampler) -> dict[str, Any]:
    """A sampler's scalar fields: what a user may turn."""
    found = {f.name: getattr(sampler, f.name) for f in fields(sampler)}  # type: ignore[arg-type]
    return {name: value for name, value in found.items() if isinstance(value, int | float | str)}


def described(sampler: Sampler) -> dict[str, Any]:
    """A sampler's name and dials, for a record."""
    return {"name": type(sampler).__name__, **dials_of(sampler)}


def _told(facts: Facts, about: dict[str, Any], n: int) -> Batch | None:
    """What a caller says of the samples, as batch fields of n rows. A class may be given by its name."""
    if not about:
        return None
    known = ["label"] if facts.classes else []
    for key in about:
        if key not in known:
            raise recipes.UnknownName("field of --about", key, known or ["(this run takes none)"])
    given = about["label"] if isinstance(about["label"], list) else [about["label"]]
    if not given:
        raise ValueError("--about names no label: 'label' is an empty list")
    labels = [_class(facts, value) for value in given]
    return {"label": torch.tensor([labels[i % len(labels)] for i in range(n)])}


def _class(facts: Facts, value: Any) -> int:
    if str(value) in facts.classes:
        return facts.classes.index(str(value))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(facts.classes):
        return value
    raise recipes.UnknownName("label", value, list(facts.classes))


def _prompted(system: System, prompt: str, n: int, sampler: Sampler) -> Code:
    """A prompt as the start of n samples: its code, then room to write as much as the sampler's length says."""
    if system.codec.field != "text":
        raise ValueError(f"this run makes {system.codec.field}s; --prompt is for text")
    code = system.codec.encode([prompt])
    room = getattr(sampler, "length", 0) or max(1, system.codec.length - code.shape[1])
    return torch.nn.functional.pad(code, (0, room), value=IGNORE).expand(n, -1).to(system.device)


# -- compress ------------------------------------------------------------------------------------------------------------


def compress(
    path: str | Path, source: str | Path, out: str | Path, *, step: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Write pictures or text as a file of about as many bits as a run's model says they hold; `decompress` brings them back.

    Args:
        source: a text file; or a picture, a folder of them, or an .npz with "image" (and "label"), of the run's size and levels.

    Returns:
        "bytes" of the file, "model_bits" that the model gives its symbols, "symbols", and "rows".

    Raises:
        ValueError: the run has no exact likelihood, or the source is not of its kind.
    """
    found = load(path, step=step, device=device)
    code, told = parcel.fold(Path(source), found.facts, found.system.codec)
    packed = lossless.pack(found.system, code, told)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    storage.replace_durably(Path(out), packed.data)
    return {"bytes": len(packed.data), "model_bits": packed.bits, "symbols": packed.symbols, "rows": len(code)}


def decompress(path: str | Path, source: str | Path, out: str | Path, *, step: int | None = None, device: str = "cpu") -> None:
    """Bring back what `compress` wrote with the same run and checkpoint, on the same kind of machine.

    Args:
        out: a file for text; for pictures an .npz, a .png (of one), or a folder.

    Raises:
        ValueError: the file is damaged, another model's, or another machine's.
    """
    if not Path(source).is_file():
        raise lossless.Unreadable(f"there is no file {source}")
    found = load(path, step=step, device=device)
    code, told = lossless.unpack(found.system, Path(source).read_bytes())
    parcel.unfold(code, told, found.facts, found.system.codec, Path(out))


# -- evaluate and show ---------------------------------------------------------------------------------------------------


def evaluate(
    path: str | Path,
    *,
    n: int = 0,
    seed: int = 0,
    only: list[str] | None = None,
    step: int | None = None,
    device: str = "auto",
    trust: bool = False,
) -> dict[str, Any]:
    """Score a run on its held-out data; writes eval.json, report.html and the model card, and returns what eval.json holds."""
    if seed < 0:
        raise ValueError(f"--seed {seed}: a seed of evaluation is 0 or more")
    chosen = choose(only)
    found = load(path, step=step, device=device, trust=trust)
    evidence = Evidence(found.data, found.system, n=n or None, seed=seed)
    with undisturbed(found.system):
        result = judge(evidence, chosen)
    record = found.run.record
    told = {
        "run": str(path),
        "recipe": record["recipe"],
        "arguments": record["arguments"],
        "step": found.progress.step,
        "seconds": round(found.progress.seconds, 3),
        "setup_seconds": record["setup_seconds"],
        "parameters": record["parameters"],
        "sampler": described(found.system.sampler),
        "n": evidence.n,
        "seed": seed,
        **_plain(result),
    }
    storage.replace_durably(found.run.path / "eval.json", (json.dumps(told, indent=1) + "\n").encode())
    with undisturbed(found.system):
        kept = exhibits.kept(evidence)
    if kept:
        exhibits.save(found.run.path / "samples" / "eval.npz", kept)
    write_run_page(found.run.path / "report.html", {"record": record, "eval": told, "log": found.run.rows(), **kept})
    write_card(found.run.path / "README.md", record, told)
    return told


def baselines(data: str, *, size: int = 0, seed: int = 0, out: str | Path = "") -> dict[str, dict[str, dict[str, Any]]]:
    """What any model must beat on a data set: baseline -> figure -> value. Written to `out` as JSON if it is given.

    For images: the training rows themselves (a perfect copier), a Gaussian and independent pixels per class. For text: xz.
    """
    found = _plain(judge_baselines(open_data(data, size), seed))
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        storage.replace_durably(Path(out), (json.dumps(found, indent=1) + "\n").encode())
    return found


def _plain(value: Any) -> Any:
    """JSON's own types: estimates and signatures as dictionaries, NaN as null."""
    if hasattr(value, "asdict"):
        return _plain(value.asdict())
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def show(name: str) -> dict[str, Any]:
    """What a run is and how far; or, given a recipe's name, its arguments, roles, phases and capabilities."""
    if (recipe := recipes.named(name)) in recipes.catalogue() or ":" in name:
        name = recipe
        experiment, _ = build(name, {}, 0)
        return {
            "recipe": name,
            "about": recipes.find(name).__doc__,
            "arguments": recipes.signature(recipes.find(name)),
            **anatomy(experiment),
        }
    found = Run.open(name)
    rows = found.rows()
    kept: list[dict[str, Any]] = []
    for folder in found.checkpoints():
        try:
            storage.read_verified(folder)
            kept.append({"step": int(folder.name.removeprefix("step-")), "verified": True})
        except storage.Damaged as error:
            kept.append({"step": int(folder.name.removeprefix("step-")), "verified": False, "why": str(error)})
    return {**found.record, "last": rows[-1] if rows else {}, "checkpoints": kept, "eval": _read(found.path / "eval.json")}


def anatomy(experiment: Experiment) -> dict[str, Any]:
    """A system's parts and what it can do, read from the parts themselves."""
    system = experiment.system
    fates = {**dict.fromkeys(system.frozen, "frozen"), **{f: f"follows {leader}" for f, (leader, _) in system.follow.items()}}
    roles = {k: net for k, net in system.roles().items() if next(net.parameters(), None) is not None}
    main = system.steady("main") if "main" in system.nets else None
    return {
        "roles": {
            k: {"parameters": sum(p.numel() for p in net.parameters()), "fate": fates.get(k, "learns")}
            for k, net in roles.items()
        },
        "phases": {p.name: {"trains": list(system.learners(p)), "every": p.every} for p in system.objective.phases()},
        "sampler": described(system.sampler),
        "can": {
            "likelihood": system.objective.bound or "no",
            "conditional": list(system.conditioner.fields) if system.conditioner else [],
            "guidance": system.conditioner is not None and "guidance" in dials_of(system.sampler),
            "lossless coding": not lossless.unfit(system),
            "incremental decoding": main is not None and hasattr(main, "begin") and main.begin(1, 2) is not None,
        },
    }
