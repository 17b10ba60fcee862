"""What the files of the command line share: options that several verbs have, how words become values, how results are shown.

Imports no torch until a function runs.
"""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Out = Annotated[str, typer.Option("--out", "-o", help="Where to write.")]
Seed = Annotated[int, typer.Option(help="Every random choice follows from it.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
Threads = Annotated[int, typer.Option(help="CPU threads (0 = all cores).")]
Every = Annotated[int, typer.Option(help="Steps between checkpoints (0 = five over the run).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Step = Annotated[int, typer.Option(min=-1, help="This checkpoint (-1 = the newest).")]
Trust = Annotated[bool, typer.Option("--trust", help="Import the code outside maquette that made this run.")]
Execute = Annotated[bool, typer.Option("--allow-code-exec", help="Run the programs that are written, walled in (pass@k).")]
Full = Annotated[bool, typer.Option("--stop-on-full", help="Stop at the first checkpoint the disk has no room for.")]


def use_threads(count: int) -> None:
    """Let torch use so many CPU threads; 0 leaves it all cores."""
    import torch

    most = max(64, os.cpu_count() or 1)
    if not 0 <= count <= most:
        raise ValueError(f"--threads {count} is not in 1 .. {most} (0 = all cores)")
    if count:
        torch.set_num_threads(count)


def options_of(words: list[str]) -> dict[str, Any]:
    """`--name value`, `--name=value`, `name=value`, `--flag` and `--no-flag`, as a recipe's arguments."""
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") and not equals:
            raise ValueError(f"'{word}' is not an option: write --name value or name=value")
        if not equals:
            if rest and not rest[0].startswith("--"):
                value = rest.pop(0)
            else:
                name, value = (name.removeprefix("no-"), "false") if name.startswith("no-") else (name, "true")
        found[name.replace("-", "_")] = value
    return found


def whole_numbers(option: str, words: str) -> list[int]:
    """Whole numbers with commas between."""
    parts = [part.strip() for part in words.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):
        raise ValueError(f"{option} '{words}': write whole numbers with commas between, as 0,1")
    return [int(part) for part in parts]


def print_json(value: Any) -> None:
    """A value as JSON on stdout."""
    typer.echo(json.dumps(value, indent=1, default=str))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Rows under a title and the names of their columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
