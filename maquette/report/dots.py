"""A metric over all systems as a dot and a bar for its 95 % interval, drawn as SVG. Knows columns, no page."""

from __future__ import annotations

from html import escape

from maquette.report.axes import Scale, finite, fitted, line, text
from maquette.report.standing import BEST, LEADS, Cell, Column

WIDE = 360
_ROW, _TOP, _FOOT, _LETTER = 24, 8, 24, 6.4


def interval_plot(column: Column, names: list[str], floors: dict[str, float] | None = None) -> str:
    """A row per system: dot = value, bar = interval; a dashed line per floor (what simple or real data reach).

    The scale is logarithmic where values are positive and span more than 20 to 1. Systems without the figure are left out.
    """
    rows = [(name, cell) for name, cell in zip(names, column.cells, strict=True) if cell.value is not None]
    if not rows:
        return ""
    marks = {name: value for name, value in (floors or {}).items() if finite(value) is not None}
    if column.aim is not None:
        marks[f"aim {column.aim:.3g}"] = column.aim
    held = [v for _, cell in rows for v in (cell.value, cell.low, cell.high) if v is not None] + list(marks.values())
    left = min(118.0, max(len(name) for name, _ in rows) * _LETTER + 12)
    top = _TOP + 14 * len(marks)
    high = top + _ROW * len(rows) + _FOOT
    across = fitted(held, left + 6, WIDE - 62)
    parts = _frame(across, top, high, marks)
    for i, (name, cell) in enumerate(rows):
        parts.append(_row(name, cell, column, across, top + _ROW * (i + 0.5), left))
    told = "; ".join(f"{name} {column.show(cell.value)}{_between(column, cell)}" for name, cell in rows)
    label = escape(f"{column.metric}, {column.wish}: {told}", quote=True)
    return f'<svg class="chart" viewBox="0 0 {WIDE} {high:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _between(column: Column, cell: Cell) -> str:
    return "" if cell.half is None else f" ({column.show(cell.low)} to {column.show(cell.high)})"


def _frame(across: Scale, top: float, high: float, marks: dict[str, float]) -> list[str]:
    parts = []
    for tick in across.ticks(4):
        parts.append(line(across(tick), top, across(tick), high - _FOOT))
        parts.append(text(across(tick), high - _FOOT + 15, f"{tick:,g}", anchor="middle", size=10.5))
    left = sorted((pair for pair in marks.items() if across(pair[1]) < WIDE / 2), key=lambda pair: pair[1])
    right = sorted((pair for pair in marks.items() if across(pair[1]) >= WIDE / 2), key=lambda pair: -pair[1])
    for i, (name, value) in enumerate([*right, *left]):  # in this order no line runs through another's name
        x, y, ends = across(value), _TOP + 14 * i + 4, i < len(right)
        parts.append(line(x, y + 4, x, high - _FOOT, "muted", 1, "stroke-dasharray:2 3"))
        parts.append(text(x + (-4 if ends else 4), y + 4, name, "muted", "end" if ends else "start", 10.5, "font-style:italic"))
    return parts


def _row(name: str, cell: Cell, column: Column, across: Scale, y: float, left: float) -> str:
    """One system: its name, its interval, its dot (filled where it is the best or leads), its value."""
    value = cell.value if cell.value is not None else 0.0
    first = cell.mark in (BEST, LEADS)
    colour, fallback = ("accent", "#c0562b") if first else ("ink-soft", "#777")
    most = int((left - 6) / _LETTER)
    shown = name if len(name) <= most else name[: most - 1] + "…"
    parts = [f"<g><title>{escape(f'{name}: {column.show(value)}{_between(column, cell)}')}</title>"]
    parts.append(text(left, y + 4, shown, "ink", "end", 12))
    if cell.low is not None and cell.high is not None:
        parts.append(line(across(cell.low), y, across(cell.high), y, colour, 3, "stroke-linecap:round;opacity:.45"))
    parts.append(f'<circle cx="{across(value):g}" cy="{y:g}" r="4.5" style="fill:var(--{colour},{fallback})"/>')
    words = column.show(value) + (f" {cell.group}" if cell.group else "")
    parts.append(text(WIDE, y + 4, words, "ink" if first else "muted", "end", 12, "font-weight:600" if first else ""))
    return "".join([*parts, "</g>"])
