"""What a comparison shows, in sentences: who is best beyond doubt, where no winner can be named, what to be wary of.

Knows columns of figures and their marks; no page and no terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maquette.report.standing import BEST, CLOSE, LEADS, Column

NEAR, FAR = 0.9, 1.2  # NN ratio: copying below, blur or noise above
COPIES = 0.02  # share of samples nearer to a training row than 99 % of real rows are; honest samples have .01


def listed(items: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def findings(columns: Sequence[Column], names: Sequence[str]) -> list[str]:
    """Who wins what, and which figures name no winner."""
    won: dict[str, list[str]] = {}
    open_, unlike = [], []
    for column in columns:
        marks = [cell.mark for cell in column.cells]
        if BEST in marks and not column.differs:
            won.setdefault(names[marks.index(BEST)], []).append(column.metric)
        elif LEADS in marks and not column.differs:
            first = names[marks.index(LEADS)]
            others = [name for name, mark in zip(names, marks, strict=True) if mark == CLOSE]
            open_.append(f"{column.metric} ({first} leads, not told apart from {listed(others)})")
        if column.differs:
            unlike.append(column.metric)
    told = [f"{name} is best beyond the intervals' doubt on {listed(metrics)}." for name, metrics in won.items()]
    if open_:
        told.append(f"No winner can be named on {'; '.join(open_)}.")
    if unlike:
        told.append(f"{listed(unlike)} cannot be ranked over all systems: the figures were not measured alike.")
    return told


def warnings(columns: Sequence[Column], rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Failures, signs of copying or of noise, figures that are not numbers."""
    told = [
        f"{name} failed: {row.get('error') or 'no reason was recorded'}"
        for name, row in zip(names, rows, strict=True)
        if _failed(row)
    ]
    for i, name in enumerate(names):
        cells = {column.metric: (column, column.cells[i]) for column in columns}
        told += _copying(name, cells)
        broken = [
            metric for metric, (_, cell) in cells.items() if cell.value is None and cell.why.endswith("not a finite number")
        ]
        if broken:
            told.append(f"{name}: {listed(broken)} {'is' if len(broken) == 1 else 'are'} not a finite number.")
    return told


def _failed(row: dict[str, Any]) -> bool:
    return row.get("status") == "failed"


def _copying(name: str, cells: dict[str, tuple[Column, Any]]) -> list[str]:
    """What the distance to the nearest training row gives away."""
    ratio, copies = cells.get("NN ratio"), cells.get("copies")
    if ratio and ratio[1].value is not None:
        column, cell = ratio
        shown = f"NN ratio {column.show(cell.value)}" + (
            f", {column.show(cell.low)} to {column.show(cell.high)}" if cell.half is not None else ""
        )
        if (cell.high if cell.high is not None else cell.value) < NEAR:
            return [
                f"{name} may be copying: its samples lie closer to training rows than fresh real rows do ({shown}). Its other figures flatter it."
            ]
        if (cell.low if cell.low is not None else cell.value) > FAR:
            return [
                f"{name}'s samples lie farther from training rows than fresh real rows do ({shown}): a sign of blur or noise."
            ]
    if copies and copies[1].value is not None:
        column, cell = copies
        if (cell.low if cell.low is not None else cell.value) > COPIES:
            return [
                f"{name} may be copying: {cell.value:.1%} of its samples are nearer to a training row than 99 % of real rows are."
            ]
    return []
