"""The command line: the verbs of `maquette.api`, their options, and what each failure means for the caller.

Imports no torch until a verb runs, so `--help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from maquette import __version__, cli_drawing, cli_finding, recipes
from maquette.cli_words import (
    Device,
    Every,
    Execute,
    Full,
    Json,
    Out,
    Quiet,
    Seed,
    Step,
    Threads,
    Trust,
    options_of,
    print_json,
    print_table,
    use_threads,
    whole_numbers,
)

app = typer.Typer(
    name="maquette",
    help="Train, sample, score, compare and resume every family of generative model on your own data, through one loop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_drawing.app)
app.add_typer(cli_finding.app)
_OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}

FAILED, BAD_INPUT, STORAGE, NUMERICAL, RESUMABLE = 1, 2, 73, 74, 75


def _short(value: float | None) -> str:
    """A figure in four digits; one that is not finite is saved as null."""
    return "-" if value is None else f"{value:.4g}"


@app.command("doctor")
def doctor_verb(as_json: Json = False) -> None:
    """Time this machine: matrix rate per dtype, memory bandwidth, what fits."""
    from maquette import api

    found = api.doctor()
    if as_json:
        return print_json(found)
    for name, value in found.items():
        typer.echo(f"{name.replace('_', ' '):<22} {value}")


@app.command("list")
def list_verb(
    what: Annotated[str, typer.Argument(help="recipes, data, metrics or runs")] = "recipes", as_json: Json = False
) -> None:
    """What there is: recipes, built-in data, metrics, or the runs under ./runs."""
    if what == "recipes":
        found = [{"name": r.name, "summary": r.summary, "arguments": r.arguments} for r in recipes.catalogue().values()]
    elif what == "data":
        from maquette.data import corpora

        found = [{"name": name, "summary": summary} for name, summary in corpora().items()]
    elif what == "metrics":
        from maquette.metrics import all_metrics

        found = [{"name": name, "summary": (metric.__doc__ or "").split("\n")[0]} for name, metric in all_metrics().items()]
    elif what == "runs":
        found = [_run_line(path) for path in sorted(Path("runs").rglob("run.json"))]
    else:
        raise recipes.UnknownName("list", what, ["recipes", "data", "metrics", "runs"])
    if as_json:
        return print_json(found)
    print_table("", ["name", "what"], [[str(row["name"]), str(row["summary"])] for row in found])


def _run_line(path: Path) -> dict[str, Any]:
    from maquette.runs import Run, RunError

    try:
        found = Run.open(path.parent)
    except (RunError, OSError) as error:
        return {"name": str(path.parent), "summary": f"cannot be read: {error}", "error": str(error)}
    record, done = found.record, found.checkpoints()
    step = int(done[-1].name.removeprefix("step-")) if done else 0
    told = f"{record['recipe']} on {record['data']['name']}, step {step} of {record['fit']['steps']}"
    return {"name": str(path.parent), "summary": told, "recipe": record["recipe"], "step": step, "steps": record["fit"]["steps"]}


@app.command("show")
def show_verb(
    name: Annotated[str, typer.Argument(help="a folder, of a run or a pipeline, or a recipe")], as_json: Json = False
) -> None:
    """A run: what it is and how far. A published pipeline: its parts. A recipe: its arguments, roles, phases and capabilities."""
    from maquette import api

    found = api.show(name)
    if as_json:
        return print_json(found)
    for key, value in found.items():
        shown = "\n".join(f"  {k:<20} {v}" for k, v in value.items()) if isinstance(value, dict) else f"  {value}"
        typer.echo(f"{key}\n{shown}")


@app.command("train", context_settings=_OPEN)
def train_verb(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(help="a recipe (`maquette list`), or my_pkg.recipes:fn")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 0,
    budget: Annotated[str, typer.Option(help="Training seconds instead of steps: 60s, 10m, 1h (CPU- or GPU-seconds).")] = "",
    out: Out = "",
    seed: Seed = 0,
    checkpoint_every: Every = 0,
    stop_on_full: Full = False,
    device: Device = "auto",
    threads: Threads = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a recipe. Further options are the recipe's own (`maquette show RECIPE`), or lr, batch, warmup, bf16, ...

    Example: maquette train flow --data digits --budget 60s --lr 1e-3
    """
    from maquette import api

    use_threads(threads)
    given = options_of(ctx.args)
    session = api.train(
        recipe,
        out=out,
        steps=steps,
        budget=budget,
        seed=seed,
        checkpoint_every=checkpoint_every,
        stop_on_full=stop_on_full,
        device=device,
        quiet=quiet or as_json,
        **given,
    )
    _finished(session, as_json)


@app.command("resume")
def resume_verb(
    run: Annotated[str, typer.Argument(help="the run's folder")],
    steps: Annotated[int, typer.Option(help="Move the end of the run.")] = 0,
    checkpoint_every: Every = 0,
    stop_on_full: Full = False,
    device: Device = "auto",
    quiet: Quiet = False,
    trust: Trust = False,
    allow_code_exec: Execute = False,
    as_json: Json = False,
) -> None:
    """Continue a run bit for bit from its newest checkpoint that verifies."""
    from maquette import api

    session = api.resume(
        run,
        steps=steps,
        checkpoint_every=checkpoint_every,
        stop_on_full=stop_on_full,
        device=device,
        quiet=quiet or as_json,
        trust=trust,
        allow_code_exec=allow_code_exec,
    )
    _finished(session, as_json)


def _finished(session: Any, as_json: bool) -> None:
    if int(os.environ.get("RANK", "0")):
        return
    told = {"run": str(session.run.path), "step": session.progress.step, "seconds": round(session.progress.seconds, 2)}
    if as_json:
        return print_json(told)
    typer.echo(f"{told['run']}: step {told['step']}, {told['seconds']} training seconds")


@app.command("export")
def export_verb(
    run: Annotated[str, typer.Argument(help="the run's folder, or a published pipeline's or model's")],
    out: Annotated[str, typer.Argument(help="the folder to write, or the file")],
    to: Annotated[str, typer.Option(help="What is to open it: diffusers, hf (transformers), gguf (llama.cpp), onnx.")] = "",
    step: Step = -1,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Write a run, a pipeline or a model as a folder that another library opens, and makes the same samples from."""
    from maquette import api

    kind = api.export(run, out, to=to, step=None if step < 0 else step, trust=trust)
    if as_json:
        return print_json({"run": run, "out": out, "class": kind})
    if to in ("gguf", "onnx"):
        return typer.echo(f"{out}: {kind} opens it")
    library = "diffusers" if "Pipeline" in kind else "peft" if kind.startswith("Peft") else "transformers"
    typer.echo(f"{out}: {library}.{kind if '.' in kind else kind + '.from_pretrained'} opens it")


@app.command("compress")
def compress_verb(
    run: Annotated[str, typer.Argument(help="the run's folder")],
    source: Annotated[str, typer.Argument(help="a text file; a picture, a folder of pictures, or an .npz")],
    out: Annotated[str, typer.Argument(help="the file to write")],
    step: Step = -1,
    device: Device = "cpu",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Lossless: write a file of about as many bits as the model says its contents hold."""
    from maquette import api

    use_threads(threads)
    told = api.compress(run, source, out, step=None if step < 0 else step, device=device)
    if as_json:
        return print_json({"run": run, "out": out, **told})
    share = f"{told['bytes'] * 8 / told['model_bits']:.4f}" if told["model_bits"] else "-"
    typer.echo(
        f"{out}: {told['bytes']} bytes for {told['symbols']} symbols; {share} of the model's {told['model_bits']:.0f} bits"
    )


@app.command("decompress")
def decompress_verb(
    run: Annotated[str, typer.Argument(help="the run that compressed it")],
    source: Annotated[str, typer.Argument(help="a file of `maquette compress`")],
    out: Annotated[str, typer.Argument(help="a text file; or .png, .npz, or a folder, for pictures")],
    step: Step = -1,
    device: Device = "cpu",
) -> None:
    """Bring back what `compress` wrote, bit for bit: same run, same checkpoint, same kind of machine."""
    from maquette import api

    api.decompress(run, source, out, step=None if step < 0 else step, device=device)
    typer.echo(out)


@app.command("eval")
def eval_verb(
    run: Annotated[str, typer.Argument(help="the run's folder")],
    n: Annotated[int, typer.Option("-n", help="Samples to draw (0 = as many as there are training rows, at most 10,000).")] = 0,
    metrics: Annotated[str, typer.Option(help="Only these, comma-separated (`maquette list metrics`).")] = "",
    seed: Seed = 0,
    step: Step = -1,
    device: Device = "auto",
    threads: Threads = 0,
    trust: Trust = False,
    allow_code_exec: Execute = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score a run on its held-out data, every figure with a 95 % interval and the signature of how it was made."""
    from maquette import api

    use_threads(threads)
    only = [name for name in metrics.split(",") if name] or None
    told = api.evaluate(
        run,
        n=n,
        seed=seed,
        only=only,
        step=None if step < 0 else step,
        device=device,
        trust=trust,
        allow_code_exec=allow_code_exec,
        quiet=quiet or as_json,
    )
    if as_json:
        return print_json(told)
    rows = [
        [name, _short(e["value"]), f"{_short(e['low'])} .. {_short(e['high'])}", str(e["n"])]
        for name, e in told["metrics"].items()
    ]
    print_table(f"{run} at step {told['step']}", ["metric", "value", "95 %", "n"], rows)
    for name, why in told["skipped"].items():
        typer.echo(f"{name}: not measured: {why}")


@app.command("baselines")
def baselines_verb(
    data: Annotated[str, typer.Option(help="A built-in (`maquette list data`) or a path of your own.")] = "digits",
    size: Annotated[int, typer.Option(help="Side in pixels that images are brought to; 0 keeps them as they are.")] = 0,
    seed: Seed = 0,
    out: Out = "",
    threads: Threads = 0,
    allow_code_exec: Execute = False,
    as_json: Json = False,
) -> None:
    """What any model must beat on a data set: its own rows, a Gaussian, independent pixels; for text, xz; for code, n-grams."""
    from maquette import api

    use_threads(threads)
    told = api.baselines(data, size=size, seed=seed, out=out, allow_code_exec=allow_code_exec)
    if as_json:
        return print_json(told)
    figures = list(dict.fromkeys(figure for found in told.values() for figure in found))
    rows = [[f, *(_short(told[name].get(f, {}).get("value")) for name in told)] for f in figures]
    print_table(f"baselines on {data}", ["metric", *told], rows)


@app.command("compare", context_settings=_OPEN)
def compare_verb(
    ctx: typer.Context,
    recipes_: Annotated[str, typer.Option("--recipes", help="Comma-separated.")] = "vae,gan,pixelcnn,maskgit,flow",
    data: Annotated[str, typer.Option(help="A built-in (`maquette list data`) or a path of your own.")] = "digits",
    budget: Annotated[str, typer.Option(help="Training seconds for each.")] = "",
    steps: Annotated[int, typer.Option(help="Steps for each, instead of a budget.")] = 0,
    out: Out = "runs/compare",
    seed: Seed = 0,
    seeds: Annotated[str, typer.Option(help="Train each with several seeds, comma-separated: how far the ranking holds.")] = "",
    n: Annotated[int, typer.Option("-n", help="Samples to judge each by (0 = as many as training rows, at most 10,000).")] = 0,
    jobs: Annotated[int, typer.Option(help="Systems trained side by side, one thread each (0 = one per core).")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train several families on the same data with the same budget; a leaderboard, compare.json and report.html.

    One that was stopped goes on where it was when the same is asked again.
    """
    from maquette import api

    names = [name.strip() for name in recipes_.split(",") if name.strip()]
    told = api.compare(
        data,
        names,
        budget=budget,
        steps=steps,
        out=out,
        seed=seed,
        seeds=whole_numbers("--seeds", seeds),
        n=n,
        jobs=jobs,
        quiet=quiet or as_json,
        arguments=options_of(ctx.args),
    )
    failed = any(row["status"] == "failed" for row in told["rows"])
    if as_json:
        print_json(told)
        raise typer.Exit(FAILED if failed else 0)
    from rich.console import Console

    from maquette.report.bar import leaderboard, plain_table
    from maquette.report.ranking import plain_ranking

    if sys.stdout.isatty():
        Console().print(leaderboard(told))
    else:
        typer.echo(plain_table(told["rows"], told["floors"]))
    if ranks := plain_ranking(told["rows"]):
        typer.echo(ranks)
    typer.echo(f"{Path(out) / 'report.html'} shows samples, curves and what each number means; compare.json has every figure.")
    raise typer.Exit(FAILED if failed else 0)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; turn what went wrong into a message and an exit code.

    0 done; 1 a system of a comparison failed; 2 bad input; 73 storage; 74 not finite; 75 resumable (a rank was lost);
    130 / 143 stopped by a signal.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # recipes of one's own, my_pkg.recipes:fn
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if os.environ.get("MAQUETTE_DEBUG"):
            raise
        code = _code(error)
        if code is None:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.stdout.flush()
        sys.exit(code)


def _code(error: Exception) -> int | None:
    """The exit code of a failure that has a plain meaning; None for a fault of ours, which keeps its traceback."""
    if isinstance(error, ValueError | FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError | MemoryError):
        return BAD_INPUT
    if "torch" in sys.modules:
        from maquette.distributed import PeerLost
        from maquette.runs import Stopped, StorageFull
        from maquette.train import NotFinite

        if isinstance(error, Stopped):
            return 128 + error.signum
        meanings = ((StorageFull, STORAGE), (NotFinite, NUMERICAL), (PeerLost, RESUMABLE))
        found = next((code for kind, code in meanings if isinstance(error, kind)), None)
        if found is not None:
            return found
        if isinstance(error, RuntimeError) and "memory" in str(error):  # torch could not allocate what was asked for
            return BAD_INPUT
    return STORAGE if isinstance(error, OSError) else None
