"""Work shown on a terminal: a training bar, a board of several runs, the leaderboard. Plain lines where there is no terminal.

Bars go to stderr, so that stdout holds results alone; NO_COLOR is honoured. Knows reports of steps, no training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from maquette.report.axes import duration, finite, short
from maquette.report.standing import BEST, CLOSE, LEADS, Cell, Column, columns, floor_of, names, seeds_of, systems_of

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

QUIET = 10.0  # seconds between lines where there is no terminal


class Step(Protocol):
    """What a step tells: see `maquette.runs.Report`."""

    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def logs(self) -> dict[str, float] | None: ...
    @property
    def saved(self) -> Path | None: ...
    @property
    def warning(self) -> str: ...


class Pace:
    """Steps per second of late, so that a slow start or a pause does not spoil the time left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, over: float = 15.0):
        self.clock, self.over = clock, over
        self.seen: list[tuple[float, int]] = []

    def at(self, step: int) -> float:
        """Note a step; returns the rate over the last `over` seconds, 0 before it can be known."""
        now = self.clock()
        self.seen.append((now, step))
        while len(self.seen) > 2 and now - self.seen[1][0] > self.over:
            self.seen.pop(0)
        (began, first) = self.seen[0]
        return (step - first) / (now - began) if now > began else 0.0


class Bar:
    """A run's progress: share, step, loss, speed, time gone and time left.

    Args:
        title: what is trained.
        steps: where it ends.
        rows: rows per step, to tell rows per second (0 = tell steps per second).
        console: where to show it; by default stderr.
    """

    def __init__(
        self, title: str, steps: int, rows: int = 0, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ):
        from rich.console import Console

        self.title, self.steps, self.rows, self.clock = title, steps, rows, clock
        self.console = console or Console(stderr=True)
        self.pace, self.began, self.spoke, self.loss = Pace(clock), clock(), float("-inf"), ""
        self.bar: Any = None

    def __enter__(self) -> Bar:
        if self.console.is_terminal:
            self.bar = _progress(self.console)
            self.bar.start()
            self.task = self.bar.add_task(_safe(self.title), total=self.steps, loss="", told="", left="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, report: Step) -> None:
        """Show a step. Warnings stay on the screen as lines of their own."""
        rate = self.pace.at(report.step)
        self.loss = losses(report.logs) or self.loss
        if report.warning:
            self.say(f"warning: {report.warning}")
        told = f"{short(rate * self.rows)} rows/s" if self.rows else f"{short(rate)} steps/s"
        told = told if rate else ""
        left = f"{duration((report.steps - report.step) / rate)} left" if rate and report.step < report.steps else ""
        if self.bar:
            self.bar.update(self.task, completed=report.step, total=report.steps, loss=self.loss, told=told, left=left)
            return
        now, last = self.clock(), report.step >= report.steps
        if last or now - self.spoke >= QUIET:
            self.spoke = now
            parts = [f"step {report.step}/{report.steps}", f"{report.step / max(1, report.steps):.0%}", self.loss, told]
            self.say(
                ", ".join(
                    [f"{self.title}: {parts[0]}", *(p for p in [*parts[1:], f"{duration(now - self.began)} gone", left] if p)]
                )
            )

    def say(self, words: str) -> None:
        """A line that stays, above the bar where there is one."""
        (self.bar.console if self.bar else self.console).print(words, markup=False, highlight=False, soft_wrap=True)


def _safe(words: str) -> str:
    from rich.markup import escape

    return escape(words)


def _progress(console: Console) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f} %"),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}", style="cyan", markup=False),
        TextColumn("{task.fields[told]}", style="dim"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", style="dim"),
        console=console,
        expand=True,
        refresh_per_second=4,
    )


def losses(logs: dict[str, float] | None) -> str:
    """The losses of a step in few letters: "loss 0.231", or "criticise 0.52 generate 0.71" where there are several."""
    found = {key.removesuffix("/loss"): value for key, value in (logs or {}).items() if key.endswith("/loss") or key == "loss"}
    if len(found) == 1:
        return f"loss {short(next(iter(found.values())))}"
    return " ".join(f"{name} {short(value)}" for name, value in found.items())


class Board:
    """Several runs side by side: what each is doing and how far it is. Without a terminal, a line whenever a stage changes."""

    def __init__(self, titles: Sequence[str], console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        from rich.console import Console

        self.console, self.clock, self.began = console or Console(stderr=True), clock, clock()
        self.stages: dict[str, str] = {}
        self.tasks: dict[str, Any] = {}
        self.bar: Any = None
        self.wide = max((len(title) for title in titles), default=0)
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            parts = [
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[stage]}"),
                TimeElapsedColumn(),
            ]
            self.bar = Progress(*parts, console=self.console, refresh_per_second=4)
            self.tasks = {title: self.bar.add_task(_safe(title), total=1.0, start=False, stage="waiting") for title in titles}
            self.bar.start()

    def show(self, states: dict[str, tuple[str, float]]) -> None:
        """Each run's stage and which share of it is done."""
        for title, (stage, share) in states.items():
            changed = self.stages.get(title) != stage
            self.stages[title] = stage
            if self.bar:
                if changed:
                    self.bar.start_task(self.tasks[title])
                self.bar.update(self.tasks[title], completed=share, stage=stage)
                if stage in ("done", "failed"):
                    self.bar.stop_task(self.tasks[title])
            elif changed:
                words = f"{duration(self.clock() - self.began):>12}  {title:<{self.wide}}  {stage}"
                self.console.print(words, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


# -- the leaderboard -----------------------------------------------------------------------------------------------------

_SIGNS = {BEST: "*", LEADS: "+", CLOSE: "="}
LEGEND = "* best   + best value, but not told apart from those marked =   (±: half of the 95 % interval)"


def leaderboard(compare: dict[str, Any]) -> Table:
    """A comparison as a table for rich: every figure with its interval, the best marked. The fewer things stand across."""
    from rich.table import Table
    from rich.text import Text

    rows = compare.get("rows") or []
    head, body, notes = _cells(rows, compare.get("floors") or {})
    data, budget = (compare.get("data") or {}).get("name", ""), compare.get("budget", "")
    title = " ".join(
        part for part in [f"{systems_of(rows)} systems on {data}" if data else "", f"({budget} each)" if budget else ""] if part
    )
    table = Table(
        title=Text(title, "bold"), title_justify="left", caption=Text("\n".join([LEGEND, *notes]), "dim"), caption_justify="left"
    )
    table.box = None
    table.pad_edge = False
    for i, words in enumerate(head):
        table.add_column(Text(words), justify="left" if i == 0 else "right", no_wrap=i == 0, overflow="fold")
    for line in body:
        table.add_row(*(Text(words, _style(words) if i else "") for i, words in enumerate(line)))
    return table


def _style(words: str) -> str:
    return {"*": "bold green", "+": "bold", "=": "", "f": "red"}.get(
        words[-1:] if words != "failed" else "f", "dim" if words == "–" else ""
    )


def plain_table(rows: Sequence[dict[str, Any]], floors: dict[str, dict[str, Any]] | None = None) -> str:
    """The same leaderboard as plain text, in columns."""
    head, body, notes = _cells(rows, floors or {})
    lines = [head, *body]
    wide = [max(len(line[i]) for line in lines) for i in range(len(head))]
    shown = [
        "  ".join(words.ljust(w) if i == 0 else words.rjust(w) for i, (words, w) in enumerate(zip(line, wide, strict=True)))
        for line in lines
    ]
    return "\n".join([line.rstrip() for line in shown] + [LEGEND, *notes]) + "\n"


def _cells(rows: Sequence[dict[str, Any]], floors: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]], list[str]]:
    """Head, lines and footnotes of a leaderboard in words; systems across unless there are more of them than metrics.

    Floors, what trivial generators score, stand beside the systems and are never ranked with them.
    """
    found = [column for column in columns(rows) if not column.metric.endswith("(real)")]
    titles = names(rows)
    metrics = [f"{column.metric} {column.arrow}".strip() for column in found]
    failed = [row.get("status") == "failed" for row in rows]
    cells = [
        ["failed" if bad else _words(column, cell) for cell, bad in zip(column.cells, failed, strict=True)] for column in found
    ]
    for column, line in zip(found, cells, strict=True):
        line += [f"{column.show(floor_of(floor, column.metric))} " for floor in floors.values()]
    costs = [_cost(row) for row in rows]
    metrics += ["training s", "parameters", "samples/s"]
    cells += [[*(cost[i] for cost in costs), *("" for _ in floors)] for i in range(3)]
    notes = [
        f"{column.metric} is compared only within one letter: {'; '.join(column.differs)}" for column in found if column.differs
    ]
    notes += [f"{title} failed: {row.get('error', '')}" for title, row, bad in zip(titles, rows, failed, strict=True) if bad]
    notes += ["marks stand among the runs of one seed"] if seeds_of(rows) else []
    notes += [f"not ranked: {', '.join(floors)}: what must be beaten"] if floors else []
    titles += [f"({name})" for name in floors]
    if len(titles) <= len(metrics):
        return ["", *titles], [[metric, *line] for metric, line in zip(metrics, cells, strict=True)], notes
    return ["", *metrics], [[title, *(line[i] for line in cells)] for i, title in enumerate(titles)], notes


def _words(column: Column, cell: Cell) -> str:
    """A cell in few letters: "0.66±.08 b*": value, half its interval, the letter of its kind, its mark."""
    if cell.value is None:
        return "–"
    half = "" if cell.half is None else f"±{column.show(cell.half)}".replace("±0.", "±.")
    return f"{column.show(cell.value)}{half}{' ' + cell.group if cell.group else ''}{_SIGNS.get(cell.mark, ' ')}"


def _cost(row: dict[str, Any]) -> list[str]:
    parameters = sum(int(v) for v in (row.get("parameters") or {}).values() if finite(v) is not None)
    return [short(row.get("seconds")), f"{parameters:,}" if parameters else "–", short(row.get("samples_per_second"))]
