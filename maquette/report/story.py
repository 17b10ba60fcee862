"""What a comparison shows, in sentences: who is best beyond doubt, where no winner can be named, what to be wary of.

Knows columns of figures and their marks; no page and no terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maquette.report.standing import BEST, LEADS, NOT_FINITE, Cell, Column

NEAR, FAR = 0.9, 1.2  # NN ratio: copying below, blur or noise above
COPIES = 0.02  # share of samples nearer to a training row than 99 % of real rows are; honest samples have .01


def listed(items: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def findings(columns: Sequence[Column], names: Sequence[str]) -> list[str]:
    """Who wins what, and which figures name no winner."""
    won: dict[str, list[str]] = {}
    undecided, unlike = [], []
    for column in columns:
        marks = [cell.mark for cell in column.cells]
        if column.differs:
            unlike.append(column.metric)
        elif BEST in marks:
            won.setdefault(names[marks.index(BEST)], []).append(column.metric)
        elif LEADS in marks:
            undecided.append(column.metric)
    told = [f"{name} is best, beyond the intervals' doubt, on {listed(metrics)}." for name, metrics in won.items()]
    if undecided:
        told.append(f"No winner can be named on {listed(undecided)}: the intervals do not tell the leaders apart.")
    if unlike:
        told.append(f"{listed(unlike)} cannot be ranked over all systems: the figures were not measured alike.")
    return told


def warnings(columns: Sequence[Column], rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Failures, signs of copying or of noise, figures that are not numbers."""
    told = []
    for name, row in zip(names, rows, strict=True):
        if row.get("status") == "failed":
            told.append(f"{name} failed: {row.get('error') or 'no reason was recorded'}")
    near, far, broken = [], [], []
    for i, name in enumerate(names):
        found = {column.metric: (column, column.cells[i]) for column in columns}
        close, shown = _closeness(*found["NN ratio"]) if "NN ratio" in found else (0, "")
        share = found["copies"][1] if "copies" in found else Cell(None)
        if close < 0:
            near.append(f"{name} ({shown})")
        elif share.value is not None and (share.value if share.low is None else share.low) > COPIES:
            near.append(f"{name} ({share.value:.1%} of its samples nearer than 99 % of real rows are)")
        elif close > 0:
            far.append(f"{name} ({shown})")
        wrong = [metric for metric, (_, cell) in found.items() if cell.value is None and cell.why == NOT_FINITE]
        broken += [f"{name}: {listed(wrong)}, {NOT_FINITE}."] if wrong else []
    if near:
        why = "samples lie closer to training rows than fresh real rows do, and other figures flatter a copier."
        told.append(f"{listed(near)} may be copying: {why}")
    if far:
        told.append(f"{listed(far)}: samples lie farther from training rows than fresh real rows do, a sign of blur or noise.")
    return told + broken


def _closeness(column: Column, cell: Cell) -> tuple[int, str]:
    """-1 where the whole interval of the NN ratio says copying, 1 where it says noise; and the figure in words."""
    if cell.value is None:
        return 0, ""
    low, high = (cell.value if end is None else end for end in (cell.low, cell.high))
    between = "" if cell.half is None else f", {column.show(low)} to {column.show(high)}"
    return (-1 if high < NEAR else 1 if low > FAR else 0), f"NN ratio {column.show(cell.value)}{between}"
