"""Loss curves as small charts, one per run, drawn as SVG by hand. Knows log rows; no library draws and nothing is fetched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from maquette.report.axes import Scale, finite, fitted, line, short, text

Point = tuple[float, float, dict[str, float]]  # step, training seconds, values by name
WIDE, HIGH = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 76, 26, 26
_SERIES = (("series-1", "#c0562b"), ("series-2", "#3b7ea1"), ("series-3", "#7d8b2b"), ("series-4", "#8a5aa8"))


def loss_curves(logs: dict[str, list[Point]]) -> str:
    """Every run's losses over its training: a chart per run, a line per phase; a run without losses is passed over.

    Points are shown faintly, a running mean over them plainly. The vertical axis is logarithmic where the losses are
    positive and span more than 8 to 1; a loss that is not finite is left out.
    """
    charts = [_chart(name, points) for name, points in logs.items()]
    return '<div class="multiples">' + "".join(chart for chart in charts if chart) + "</div>" if any(charts) else ""


def series_of(points: Sequence[Point]) -> dict[str, list[tuple[float, float, float]]]:
    """(step, seconds, loss) by phase: what is logged as "PHASE/loss", else everything that is logged."""
    named = list(dict.fromkeys(key for _, _, values in points for key in values))
    keys = [key for key in named if key.endswith("/loss") or key == "loss"] or named[: len(_SERIES)]
    found: dict[str, list[tuple[float, float, float]]] = {}
    for key in keys:
        rows = [(step, seconds, value) for step, seconds, values in points if (value := finite(values.get(key))) is not None]
        if rows:
            found[key.removesuffix("/loss")] = rows
    return found


def smooth(values: Sequence[float], width: float) -> list[float]:
    """A running mean, weighted by a Gaussian of `width` points; at the ends over what is there."""
    reach = max(1, round(3 * width))
    weights = [math.exp(-0.5 * (d / width) ** 2) for d in range(reach + 1)]
    found = []
    for i in range(len(values)):
        near = range(max(0, i - reach), min(len(values), i + reach + 1))
        found.append(sum(values[j] * weights[abs(i - j)] for j in near) / sum(weights[abs(i - j)] for j in near))
    return found


def thinned(rows: list[tuple[float, float, float]], most: int = 400) -> list[tuple[float, float, float]]:
    """At most `most` points: means over equal stretches."""
    if len(rows) <= most:
        return rows
    cuts = [rows[i * len(rows) // most : (i + 1) * len(rows) // most] for i in range(most)]
    return [
        (sum(r[0] for r in cut) / len(cut), sum(r[1] for r in cut) / len(cut), sum(r[2] for r in cut) / len(cut)) for cut in cuts
    ]


def _chart(name: str, points: Sequence[Point]) -> str:
    found = {key: thinned(rows) for key, rows in series_of(points).items()}
    if not found:
        return ""
    timed = max(row[1] for rows in found.values() for row in rows) > 0
    place = 1 if timed else 0
    across = Scale(0, max(row[place] for rows in found.values() for row in rows) or 1, _LEFT, WIDE - _RIGHT)
    lines = {key: smooth([row[2] for row in rows], max(0.5, len(rows) / 50)) for key, rows in found.items()}
    up = _height(found, lines)
    parts = _axes(across, up, "s" if timed else "steps")
    inside = []  # a nested svg cuts off what the vertical scale leaves out
    for (key, rows), (colour, fallback) in zip(found.items(), _SERIES * len(found), strict=False):
        style = f"fill:none;stroke:var(--{colour},{fallback});stroke-linejoin:round"
        raw = _path([(across(row[place]), up(row[2])) for row in rows])
        plain = _path([(across(row[place]), up(value)) for row, value in zip(rows, lines[key], strict=True)])
        inside += [
            f'<path d="{raw}" style="{style};stroke-width:1;opacity:.3"/>',
            f'<path d="{plain}" style="{style};stroke-width:2"/>',
        ]
    x, y, width, height = _LEFT, _TOP - 4, WIDE - _RIGHT - _LEFT, HIGH - _BOTTOM - _TOP + 8
    parts += [f'<svg x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{x} {y} {width} {height}">', *inside, "</svg>"]
    parts += _labels(lines, up)
    told = ", ".join(f"{key} ends at {short(values[-1])}" for key, values in lines.items())
    label = escape(f"Losses of {name}: {told}", quote=True)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{label}">'
        + text(0, 12, _cut(name, 44), "ink", size=12.5, more="font-weight:600")
        + "".join(parts)
        + "</svg>"
    )


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def _height(found: dict[str, list[tuple[float, float, float]]], lines: dict[str, list[float]]) -> Scale:
    """A vertical scale that holds every smoothed line and all but the wildest points."""
    values = sorted(row[2] for rows in found.values() for row in rows)
    skip = len(values) // 50
    middle = [values[skip], values[-1 - skip]]
    held = [*middle, *(min(line_) for line_ in lines.values()), *(line_[-1] for line_ in lines.values())]
    return fitted(held, HIGH - _BOTTOM, _TOP, margin=0.04, steep=8.0)


def _axes(across: Scale, up: Scale, unit: str) -> list[str]:
    parts = []
    for tick in up.ticks(4):
        parts.append(line(_LEFT, up(tick), WIDE - _RIGHT, up(tick)))
        parts.append(text(_LEFT - 6, up(tick) + 3.5, f"{tick:g}", anchor="end", size=10.5))
    places = across.ticks(4)
    for tick in places:
        parts.append(
            text(
                across(tick),
                HIGH - _BOTTOM + 16,
                f"{tick:,g}{f' {unit}' if tick == places[-1] else ''}",
                anchor="middle",
                size=10.5,
            )
        )
    if up.log:
        parts.append(text(WIDE - _RIGHT, _TOP - 8, "log scale", anchor="end", size=10.5, more="font-style:italic"))
    return parts


def _labels(lines: dict[str, list[float]], up: Scale) -> list[str]:
    """Each line's name and last value at its end, moved apart where they would touch."""
    ends = sorted(((up(values[-1]), key, values[-1], i % len(_SERIES)) for i, (key, values) in enumerate(lines.items())))
    parts, above = [], -1e9
    for at, (y, key, value, i) in enumerate(ends):
        y = max(min(y, HIGH - _BOTTOM - 10 - 26 * (len(ends) - 1 - at)), above + 26)
        above = y
        colour, _ = _SERIES[i]
        parts.append(text(WIDE - _RIGHT + 6, y, _cut(key, 12), colour, size=11, more="font-weight:600"))
        parts.append(text(WIDE - _RIGHT + 6, y + 12, short(value), size=11))
    return parts


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) if len(places) > 1 else ""
