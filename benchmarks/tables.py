"""What tables of several runs share: a row per figure, a column per run. Makes no figure and writes no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def side_by_side(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown of runs: name -> figure -> a number, a word, or [value, low, high]."""
    figures = list(dict.fromkeys(figure for told in found.values() for figure in told))
    lines = [f"| figure | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    return lines + [f"| {figure} | {' | '.join(cell(told.get(figure)) for told in found.values())} |" for figure in figures]


def cell(value: Any) -> str:
    """A figure, with its interval if it has one; a dash where there is none."""
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value[0]:.3f} ({value[1]:.3f} .. {value[2]:.3f})" if isinstance(value, list) else f"{value:.0f}"
