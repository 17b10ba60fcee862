"""The verbs of runs that compare: embed, search. Imports no torch until one runs."""

from __future__ import annotations

from typing import Annotated

import typer

from maquette.cli_words import Device, Json, Step, Threads, Trust, print_json, use_threads

app = typer.Typer()

Run = Annotated[str, typer.Argument(help="the folder of a run that compares: of embedder, of clip")]
Source = Annotated[str, typer.Argument(help="a folder or file of text, or JSONL; pictures, of a run that compares some")]
SHOWN = 300  # characters of a passage


@app.command("embed")
def embed_verb(
    run: Run,
    source: Source,
    out: Annotated[str, typer.Option("--out", "-o", help="The file: .npz or .safetensors, with names; .npy.")] = "vectors.npz",
    step: Step = -1,
    device: Device = "auto",
    threads: Threads = 0,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Write the vectors of texts or pictures: a row each, of length 1; a product of two is their cosine.

    Example: maquette embed RUN notes/ --out notes.npz, then maquette search RUN notes.npz "how to begin"
    """
    from maquette import api

    use_threads(threads)
    shelf = api.embed(run, source, out, step=None if step < 0 else step, device=device, trust=trust)
    rows, size = shelf.vectors.shape
    if as_json:
        return print_json({"run": run, "source": source, "out": out, "rows": rows, "size": size})
    typer.echo(f"{rows} vectors of {size} numbers in {out}")


@app.command("search")
def search_verb(
    run: Run,
    source: Annotated[str, typer.Argument(help="as embed has it, or the .npz or .safetensors that embed wrote")],
    query: Annotated[str, typer.Argument(help="words; or a picture's file")],
    k: Annotated[int, typer.Option("-k", help="How many are shown, the nearest first.")] = 5,
    words: Annotated[bool, typer.Option(help="Words that a passage shares with the query count, too.")] = True,
    step: Step = -1,
    device: Device = "auto",
    threads: Threads = 0,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Find the passages of text, or the pictures, that are nearest to a query.

    Example: maquette search RUN maquette/ "the largest eigenvalue of a matrix" -k 3
    """
    from maquette import api

    use_threads(threads)
    found = api.search(run, source, query, k, words=words, step=None if step < 0 else step, device=device, trust=trust)
    if as_json:
        return print_json(found)
    for one in found:
        typer.echo(f"{one['cosine']:.3f}  {one['name']}")
        if one["text"]:
            text = one["text"] if len(one["text"]) <= SHOWN else one["text"][:SHOWN] + " ..."
            typer.echo("\n".join("       " + line for line in text.splitlines()))
