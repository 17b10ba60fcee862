"""The verbs that draw: sample, interpolate, vary. Imports no torch until one runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from maquette.cli_words import (
    Device,
    Execute,
    Json,
    Out,
    Quiet,
    Seed,
    Step,
    Threads,
    Trust,
    options_of,
    print_json,
    use_threads,
    whole_numbers,
)

app = typer.Typer()

About = Annotated[str, typer.Option(help="""What to make, as JSON: '{"label": 3}'.""")]
Dial = Annotated[list[str], typer.Option("--set", help="Turn a dial of the sampler: --set steps=50 --set guidance=2.")]
Weigh = Annotated[bool, typer.Option("--weigh", help="Brackets weigh words of captions: 'a (red:1.3) circle on [grey]'.")]
Size = Annotated[str, typer.Option(help="Pixels of a published pipeline's images: 512, or height x width, 512x768.")]


@app.command("sample")
def sample_verb(
    run: Annotated[str, typer.Argument(help="the run's folder, or one of diffusers' pipelines")],
    n: Annotated[int, typer.Option("-n", help="How many.")] = 16,
    seed: Seed = 0,
    about: About = "",
    prompt: Annotated[str, typer.Option(help="How a text begins; what a picture shows; what is read.")] = "",
    chat: Annotated[str, typer.Option(help="What a user says, to be answered; or messages, as JSON.")] = "",
    suffix: Annotated[str, typer.Option(help="How a text ends: what is written fills the gap (codex).")] = "",
    length: Annotated[int, typer.Option(help="Symbols to write (text).")] = 0,
    budget: Annotated[int, typer.Option(help="Symbols of thinking at most, then the answer (text; -1 = any).")] = -1,
    start: Annotated[
        str, typer.Option(help="Pictures to describe, translate, rebuild, vary, invert, complete: a file, folder, .npz.")
    ] = "",
    hide: Annotated[str, typer.Option(help="What of them is completed: bottom, top, left, right, middle, around.")] = "",
    mask: Annotated[str, typer.Option(help="Or a picture of the run's size, white where they are to be filled.")] = "",
    dial: Dial = [],  # noqa: B006
    size: Size = "",
    truncate: Annotated[bool, typer.Option("--truncate", help="Leave out the beginning of a prompt that is too long.")] = False,
    bits: Annotated[int, typer.Option(help="Write with matrices in 32, 16, 8 or 4 bits, faster (text; 0 = as trained).")] = 0,
    out: Out = "",
    step: Step = -1,
    device: Device = "auto",
    threads: Threads = 0,
    show: Annotated[bool, typer.Option("--print", help="Print texts on stdout too, as they are drawn.")] = False,
    stop: Annotated[list[str], typer.Option(help="A text ends before this string; may be given several times.")] = [],  # noqa: B006
    schema: Annotated[str, typer.Option(help="A text is JSON of this schema: a file, or the schema itself.")] = "",
    regex: Annotated[str, typer.Option(help="A text matches this regular expression.")] = "",
    grammar: Annotated[str, typer.Option(help="A text is what this file's Lark grammar makes.")] = "",
    draft: Annotated[
        str,
        typer.Option(help="What guesses symbols ahead (text, faster): a smaller run of the same tokenizer, 'lookup', 'ahead'."),
    ] = "",
    best_of: Annotated[
        int,
        typer.Option(
            help="Draw so many for each that is kept: the likeliest text, the picture closest to its caption by --judge."
        ),
    ] = 1,
    judge: Annotated[str, typer.Option(help="The folder of a run that judges: pictures (clip), answers (reward).")] = "",
    check: Annotated[str, typer.Option(help="Run each program on this file's examples: assert f([1, 2]) == 3.")] = "",
    repair: Annotated[int, typer.Option(help="Write one that fails again behind what went wrong, so many times.")] = 0,
    allow_code_exec: Execute = False,
    weigh: Weigh = False,
    quiet: Quiet = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Draw samples: a PNG grid, text, .npz or .json by the suffix of --out.

    Vary a picture: maquette sample RUN --start a.png --set strength=0.4 -n 4. Fill a part of it: --hide right, or --mask m.png.
    """
    from maquette import api

    use_threads(threads)
    dials = options_of(list(dial))
    if length:
        dials["length"] = length
    if budget != -1:
        dials["budget"] = budget
    dials |= _rules(stop, schema, regex, grammar)
    told, kind = _told(about), _suffix(run)
    if show and kind != "txt":
        raise ValueError(f"--print is for texts, and {run} makes none; --out names the file for its samples")
    if not out and not ((show or as_json) and kind == "txt"):  # what is drawn is never thrown away
        out = str(_shelf(run) / f"{f'step-{step:08d}-' if step >= 0 else ''}seed-{seed}.{kind}")
    live = show and not (check or judge or as_json) and kind == "txt" and (n == 1 or sys.stdout.isatty())
    batch = api.sample(
        run,
        n,
        out=out,
        seed=seed,
        about=told,
        prompt=prompt,
        chat=_messages(chat),
        suffix=suffix,
        start=start,
        hide=hide,
        mask=mask,
        dials=dials,
        step=None if step < 0 else step,
        device=device,
        trust=trust,
        best_of=best_of,
        judge=judge,
        size=size,
        draft=draft,
        logprobs=as_json and kind == "txt" and not check,
        truncate=truncate,
        tell=_teller() if live else None,
        bits=bits,
        quiet=quiet or as_json,
        check=check,
        repair=repair,
        allow_code_exec=allow_code_exec,
        weigh=weigh,
    )
    texts = batch["text"] if kind == "txt" else None
    if as_json:
        spoken = {name: batch[name] for name in ("symbols", "logprobs", "finished", "wrong") if texts and name in batch}
        return print_json({"run": run, "n": n, "seed": seed, "out": out, "text": texts, **spoken})
    if live:
        typer.echo("\n" + "-" * 40 if n > 1 else "")
    elif texts and (show or not out):
        for text in texts:
            typer.echo(text + "\n" + "-" * 40 if len(texts) > 1 else text)
    if check:
        wrong = [each for each in batch["wrong"] if each]
        typer.echo(f"{n - len(wrong)} of {n} pass{': ' if wrong else ''}{'; '.join(dict.fromkeys(wrong))}", err=True)
    if out:
        typer.echo(f"{n} samples in {out}", err=bool(show))


def _messages(chat: str) -> Any:
    """--chat as it is meant: what a user says, or a list of messages."""
    if not chat.lstrip().startswith("[{"):
        return chat
    try:
        return json.loads(chat)
    except ValueError as error:
        raise ValueError(f"--chat begins like a list of messages and is no JSON: {error}") from None


def _rules(stop: list[str], schema: str, regex: str, grammar: str) -> dict[str, Any]:
    """What is said of texts, as dials."""
    said = {"stop": tuple(stop), "regex": regex, "schema": schema if schema.lstrip().startswith("{") else _read("schema", schema)}
    return {name: value for name, value in {**said, "grammar": _read("grammar", grammar)}.items() if value}


def _read(option: str, path: str) -> str:
    """The text of a file that an option names; "" of none."""
    if path and not Path(path).is_file():
        raise ValueError(f"--{option} {path}: there is no such file")
    return Path(path).read_text() if path else ""


def _teller() -> Callable[[int, str], None]:
    """What prints the pieces of texts, a line of dashes between two texts."""
    row = 0

    def tell(sample: int, piece: str) -> None:
        nonlocal row
        if sample != row:
            typer.echo("\n" + "-" * 40)
        row = sample
        typer.echo(piece, nl=False)
        sys.stdout.flush()

    return tell


@app.command("interpolate")
def interpolate_verb(
    run: Annotated[str, typer.Argument(help="the run's folder")],
    n: Annotated[int, typer.Option("-n", help="How many, both ends included.")] = 9,
    seeds: Annotated[str, typer.Option(help="Between the first samples under two seeds.")] = "0,1",
    start: Annotated[str, typer.Option(help="Or between two pictures: a.png,b.png.")] = "",
    about: About = "",
    prompt: Annotated[str, typer.Option(help="What a picture shows.")] = "",
    dial: Dial = [],  # noqa: B006
    out: Out = "",
    step: Step = -1,
    device: Device = "auto",
    threads: Threads = 0,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Draw what lies between two samples, or two pictures, as a strip.

    Example: maquette interpolate RUN --seeds 3,7 -n 9 --out strip.png
    """
    from maquette import api

    use_threads(threads)
    between = whole_numbers("--seeds", seeds)
    if len(between) != 2:
        raise ValueError(f"--seeds {seeds} is {len(between)} seeds; it must be two, the ends, as 3,7")
    out = out or str(_shelf(run) / f"between-{'pictures' if start else '-'.join(map(str, between))}.{_suffix(run)}")
    api.interpolate(
        run,
        n,
        out=out,
        seeds=(between[0], between[1]),
        start=start,
        about=_told(about),
        prompt=prompt,
        dials=options_of(list(dial)),
        step=None if step < 0 else step,
        device=device,
        trust=trust,
    )
    if as_json:
        return print_json({"run": run, "n": n, "seeds": between, "start": start, "out": out})
    typer.echo(f"{n} samples in {out}")


@app.command("vary")
def vary_verb(
    run: Annotated[str, typer.Argument(help="the run's folder, or one of diffusers' pipelines")],
    n: Annotated[int, typer.Option("-n", help="How many variations.")] = 4,
    seed: Seed = 0,
    pick: Annotated[int, typer.Option(help="Which of the samples under the seed, counted from 0.")] = 0,
    start: Annotated[str, typer.Option(help="Or of a picture: a.png.")] = "",
    strength: Annotated[float, typer.Option(help="How far from it, 0 (the same) to 1 (another).")] = 0.3,
    about: About = "",
    prompt: Annotated[str, typer.Option(help="What it shows, as sample was told; another tells it otherwise.")] = "",
    dial: Dial = [],  # noqa: B006
    size: Size = "",
    weigh: Weigh = False,
    out: Out = "",
    step: Step = -1,
    device: Device = "auto",
    threads: Threads = 0,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Draw variations of one sample, or of a picture, behind it as a strip.

    Example: maquette sample RUN -n 4 --seed 7 --prompt "a star", then maquette vary RUN --seed 7 --pick 3 --prompt "a star".
    The same sample told otherwise: --prompt "a ring" --strength 0.
    """
    from maquette import api

    use_threads(threads)
    where = f"picture-{Path(start).stem}" if start else f"seed-{seed}-pick-{pick}"
    out = out or str(_shelf(run) / f"vary-{where}.{_suffix(run)}")
    api.vary(
        run,
        n,
        out=out,
        seed=seed,
        pick=pick,
        start=start,
        strength=strength,
        about=_told(about),
        prompt=prompt,
        dials=options_of(list(dial)),
        step=None if step < 0 else step,
        device=device,
        trust=trust,
        size=size,
        weigh=weigh,
    )
    if as_json:
        return print_json({"run": run, "n": n, "seed": seed, "pick": pick, "start": start, "strength": strength, "out": out})
    typer.echo(f"{start or 'the sample'} and {n} variations in {out}")


def _shelf(run: str) -> Path:
    """Where what is drawn is kept: in the run; of what is published, which stays as it is, in a folder of its name here."""
    return (Path(run) if (Path(run) / "run.json").exists() else Path(Path(run).resolve().name)) / "samples"


def _told(about: str) -> dict[str, Any] | None:
    """--about as it is meant."""
    try:
        told = json.loads(about) if about else None
    except ValueError as error:
        raise ValueError(f"""--about '{about}' is not JSON ({error}); write it like '{{"label": 3}}'""") from None
    if told is not None and not isinstance(told, dict):
        raise ValueError(f"""--about '{about}' is not a JSON object; write it like '{{"label": 3}}'""")
    return told


def _suffix(run: str) -> str:
    from maquette.loading import field_of

    return {"image": "png", "text": "txt"}.get(field_of(run), "npz")
