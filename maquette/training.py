"""The verbs train and resume: a run begun or reopened, pursued to the end of its plan, and what is shown on the way."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from maquette import recipes, storage
from maquette.contracts import NeedsStart, Objective
from maquette.data import Facts
from maquette.data.conversations import Conversations
from maquette.distributed import World, join, leave
from maquette.experiment import seconds_of
from maquette.loading import evaluation_of, load, pick_device
from maquette.metrics.evidence import replied
from maquette.opened import Loaded
from maquette.report.bar import Bar
from maquette.report.card import write_card
from maquette.report.pictures import save_samples
from maquette.runs import Report, Run, RunError, build, fit, rebuild, record_of
from maquette.system import System
from maquette.train import Progress, plan, ready


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
    system.learn(experiment.data.train)
    if experiment.fit.batch > (rows := len(experiment.data.train)) > 0:
        experiment = replace(experiment, fit=replace(experiment.fit, batch=rows - rows % world.size))
    ready(system, experiment.fit)
    _check_end(system, steps)
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


def _check_end(system: System, steps: int) -> None:
    """What is asked for is learnt, all of it.

    Raises:
        ValueError: more steps than there are lessons for.
    """
    end = system.objective.ends()
    if end and steps > end:
        raise ValueError(f"--steps {steps} is beyond step {end}, at which the last lesson of this recipe ends; nearest is {end}")


def _fresh(recipe: str, facts: Facts) -> Path:
    """The first free runs/RECIPE-DATA-N."""
    stem = f"{recipe.rpartition(':')[2]}-{Path(facts.name).name}"
    ends = [path.name.rpartition("-")[2] for path in Path("runs").glob(f"{glob.escape(stem)}-*")]
    taken = [int(end) for end in ends if end.isdigit()]
    return Path("runs") / f"{stem}-{max(taken, default=0) + 1}"


def pursue(session: Loaded, world: World, *, every: int = 0, stop_on_full: bool = False, quiet: bool = False) -> Loaded:
    """Train a session to the end of its plan: bar, TensorBoard events, previews at checkpoints, and at last the card."""
    found, progress = session.trained, session.progress
    with ExitStack() as stack:
        if world.first:
            stack.enter_context(found.held())
            storage.sweep(found.shelf)
        shown = world.first and not quiet
        if shown and not progress.step:
            _tell(session.facts, _limits(session.system.objective, progress.fit.steps, bool(found.record["budget"])))
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
            write_card(found.path / "README.md", found.record, evaluation_of(found.path))
    session.system.eval()
    return session


def _limits(objective: Objective, steps: int, budget: bool) -> list[str]:
    """What a plan of so many steps leaves out of what is to be learnt, or of a budget."""
    late = [
        f"{each.name} begins at step {each.since}, and this plan has {steps}: nothing of it is learnt"
        for each in objective.phases()
        if each.since >= steps
    ]
    over = [f"the last lesson ends at step {steps}, before the budget does"] if budget and objective.ends() == steps else []
    return late + over


def _tell(facts: Facts, limits: list[str], most: int = 20) -> None:
    """What the user should know before the data is trained on: what was left out of it and why, and of the plan. On stderr."""
    lines = [f"{file}: {reason}" for file, reason in facts.skipped]
    told = [f"{len(lines)} files were skipped:", *(f"  {line}" for line in lines[:most])] if lines else []
    told += [f"  ... and {len(lines) - most} more, all in run.json"] if len(lines) > most else []
    for line in [*told, *(f"note: {note}" for note in (*facts.notes, *limits))]:
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
    if session.system.sampler is None:
        return  # it draws nothing
    told = {"run": session.run.path.name, "step": step, "seed": 0}
    try:
        n = 2 if field == "text" else 16
        try:
            if isinstance(held := session.data.held, Conversations):
                talks = replied(session.system, held, list(range(min(4, len(held)))), seed=0)
                save_samples({"text": [f"{said}\n{written}" for said, _, written in talks]}, field, path, told)
                return
            batch = session.system.sample(n, seed=0)
        except NeedsStart:  # show what it makes of held-out rows
            given = session.data.held.rows(torch.arange(min(n, len(session.data.held))))
            with torch.no_grad():
                start = session.system.eval().encode(given)
            batch = session.system.sample(len(start), start=start, seed=0)
        save_samples(batch, field, path, told)
    except (RuntimeError, ValueError, OSError) as error:
        session.trained.log({"step": step, "preview_failed": str(error)})  # type: ignore[dict-item]


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
    allow_code_exec: bool = False,
) -> Loaded:
    """Continue a run from its newest checkpoint that verifies, bit for bit; `steps` moves its end.

    A run that was stopped before its first checkpoint begins again from step 0, as it would have.

    Args:
        allow_code_exec: run what it writes, walled in, where it learns by that. What was allowed when it began was allowed there:
            a run may be somebody else's.

    Raises:
        ValueError: `steps` is not beyond what the run has done; it would run what it writes, and that is not allowed.
    """
    world = join()
    found = Run.open(path)
    if found.record["arguments"].get("allow_code_exec") and not allow_code_exec:
        raise ValueError(
            f"{path} learns by running what it writes, and that goes on, walled in, only where it is allowed again: "
            "--allow-code-exec"
        )
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
        if session.progress.strange:
            git = found.record["versions"]["git"][:8]
            raise RunError(
                f"{found.path} was trained by another version of maquette ({git}), whose optimizers had other weights each, and "
                "cannot go on as it would have; it can be sampled, scored, exported and built on. Train anew to go further"
            )
    else:
        experiment = rebuild(found, trust)
        experiment.system.to(pick_device(device))
        experiment.system.learn(experiment.data.train)
        session = Loaded(found, experiment, Progress(experiment.fit, found.record["seed"]))
    if steps:
        _check_end(session.system, steps)
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
