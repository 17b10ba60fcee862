"""The tables of a report as its template wants them: the leaderboard, each figure's words, a system's facts, the data's.

Knows columns of figures and dictionaries of facts, no HTML but the plots.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from maquette.report.axes import count, duration, finite, short
from maquette.report.dots import interval_plot
from maquette.report.gallery import pairs
from maquette.report.meanings import GROUPS, OTHER, explain
from maquette.report.ranking import Ranking, stability_words
from maquette.report.standing import BEST, CLOSE, LEADS, Cell, Column, floor_of

_SIGNS = {
    BEST: ("●", "best"),
    LEADS: ("○", "best value, not told apart from others"),
    CLOSE: ("≈", "not told apart from the best"),
}
_COST = "What does it cost?"


def board(found: list[Column], rows: list[dict[str, Any]], floors: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The leaderboard's rows, under the question that each figure helps to answer."""
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in GROUPS}
    for column in found:
        meaning = explain(column.metric)
        cells = [_cell(column, cell, row) for cell, row in zip(column.cells, rows, strict=True)]
        cells += [_plain(column.show(floor_of(floors[name], column.metric)), "floor") for name in floors]
        line = {"name": column.metric, "arrow": column.arrow, "wish": column.wish, "better": column.better, "cells": cells}
        groups[meaning.group if meaning else OTHER].append(line)
    costs = [
        ("training seconds", "seconds", short),
        ("parameters", "parameters", count),
        ("samples per second", "samples_per_second", short),
    ]
    groups[_COST] = []
    for name, key, show in costs:
        values = [_total(row.get(key)) for row in rows]
        if any(value is not None for value in values):
            cells = [{**_plain(show(value)), "sort": "" if value is None else value} for value in values] + [
                _plain("", "floor") for _ in floors
            ]
            groups[_COST].append(
                {"name": name, "arrow": "", "wish": "", "better": "higher" if "per" in name else "lower", "cells": cells}
            )
    return [{"title": title, "rows": lines} for title, lines in groups.items() if lines]


def ranks(found: Sequence[Ranking]) -> dict[str, Any]:
    """The ranks of recipes over several seeds: a column per recipe, a line per metric, and how far its order holds."""
    heads = list(dict.fromkeys(name for ranking in found for name in ranking.ranks))
    lines = []
    for ranking in found:
        best = min(ranking.means.values())
        cells = []
        for name in heads:
            each = ranking.ranks.get(name)
            mean = ranking.means.get(name)
            shown = "–" if mean is None else f"{mean:.3g}"
            leads = "leads" if mean == best else ""
            cells.append({"shown": shown, "each": "" if each is None else " ".join(map(str, each)), "kind": leads})
        lines.append({"name": ranking.metric, "cells": cells, "told": stability_words(ranking)})
    return {"heads": heads, "lines": lines}


def _total(value: Any) -> float | None:
    if isinstance(value, dict):
        return sum(number for part in value.values() if (number := finite(part)) is not None) if value else None
    return finite(value)


def _plain(words: str, kind: str = "") -> dict[str, Any]:
    return {"shown": words, "sort": "", "kind": kind, "why": "", "group": "", "sign": "", "told": "", "between": ""}


def _cell(column: Column, cell: Cell, row: dict[str, Any]) -> dict[str, Any]:
    failed = row.get("status") == "failed"
    if cell.value is None:
        return {**_plain("–", "failed" if failed else ""), "why": cell.why, "told": cell.why}
    sign, told = _SIGNS.get(cell.mark, ("", ""))
    between = (
        "" if cell.half is None else f"{column.show(cell.low)}{' to ' if (cell.low or 0) < 0 else '–'}{column.show(cell.high)}"
    )
    sort = abs(cell.value - column.aim) if column.aim is not None else cell.value
    if column.aim is not None and column.better == "higher":
        sort = -sort  # the nearest first, however it is ordered
    return {
        **_plain(column.show(cell.value), cell.mark),
        "sort": sort,
        "group": cell.group,
        "sign": sign,
        "told": told,
        "between": between,
    }


def meanings(
    found: list[Column], titles: list[str], floors: dict[str, Any], single: bool, markup: type[str]
) -> list[dict[str, Any]]:
    """Each figure's words, and its plot where there is more than one system."""
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in GROUPS}
    for column in found:
        meaning = explain(column.metric)
        marks = {name: value for name in floors if (value := floor_of(floors[name], column.metric)) is not None}
        told = {"asks": meaning.asks, "scale": meaning.scale, "trap": meaning.trap, "source": meaning.source} if meaning else {}
        plot = "" if single and not marks else markup(interval_plot(column, titles, marks))
        signatures = [(letter, str(signature)) for letter, signature in column.signatures.items()]
        figure = {"name": column.metric, "wish": column.wish, "plot": plot, "signatures": signatures, **told}
        groups[meaning.group if meaning else OTHER].append(figure)
    return [{"title": title, "figures": figures} for title, figures in groups.items() if figures]


def system(name: str, row: dict[str, Any], run: dict[str, Any] | None) -> dict[str, Any]:
    """What is told of one system beside its figures."""
    failed = row.get("status") == "failed"
    parameters = row.get("parameters") or {}
    facts: list[tuple[str, str]] = []
    if parameters:
        facts.append(("parameters", ", ".join(f"{role} {count(n)}" for role, n in parameters.items() if n != 0)))
    if finite(row.get("step")) is not None:
        facts.append(("training", f"{count(row['step'])} steps in {duration(row.get('seconds'))}"))
    if row.get("sampler"):
        facts.append(("sampler", _settings(row["sampler"])))
    if finite(row.get("n")) is not None:
        spent = f" in {duration(row['sampling_seconds'])}" if finite(row.get("sampling_seconds")) is not None else ""
        facts.append(("judged by", f"{count(row['n'])} samples{spent}, seed {row.get('seed', '–')}"))
    facts += [(f"no {metric}", str(why)) for metric, why in (row.get("skipped") or {}).items()]
    facts += [("arguments", _settings(row["arguments"]))] if row.get("arguments") else []
    facts += [("folder", str(row["run"]))] if row.get("run") else []
    made = run.get("nearest") if run else None
    shown = None if made is None or run is None or isinstance(made, list) else pairs(run.get("samples"), made)
    return {
        "name": name,
        "what": _summary(str(row.get("recipe", ""))),
        "error": str(row.get("error") or "") if failed else "",
        "pairs": shown,
        "facts": facts,
    }


def _summary(recipe: str) -> str:
    """What a recipe says of itself in one sentence, where it is one of ours."""
    from maquette.recipes import catalogue

    return catalogue()[recipe].summary if recipe in catalogue() else ""


def _settings(values: dict[str, Any]) -> str:
    """{"name": "Heun", "steps": 20, "process": {"cap": 4}} -> "Heun, steps 20, process (cap 4)"."""
    return ", ".join(str(v) if k == "name" else f"{k} {_word(v)}" for k, v in values.items() if v not in ({}, None))


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_settings(value)})"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def data_facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What the data is, where it comes from, and by which hash it is known."""
    rows = ", ".join(f"{count(n)} {split}" for split, n in (facts.get("rows") or {}).items())
    shape = " x ".join(map(str, facts.get("shape") or []))
    levels = f", {facts['levels']} levels" if shape and facts.get("levels") else ""
    classes = [str(c) for c in facts.get("classes") or []]
    shown = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    told = [
        ("name", facts.get("name")),
        ("kind", facts.get("kind")),
        ("licence", facts.get("licence")),
        ("attribution", facts.get("attribution")),
    ]
    told += [("rows", rows), ("shape", f"{shape}{levels}" if shape else ""), ("classes", shown), ("split", facts.get("split"))]
    told += [("hash", f"SHA-256 {facts['hash']}" if facts.get("hash") else "")]
    told += [("note", note) for note in facts.get("notes") or []]
    skipped = facts.get("skipped") or []
    told += [("left out", f"{file}: {why}") for file, why in skipped[:20]]
    told += [("left out", f"and {len(skipped) - 20} more")] if len(skipped) > 20 else []
    return [(name, str(value)) for name, value in told if value]


def reproduction(compare: dict[str, Any]) -> list[tuple[str, str]]:
    """What it takes to get these figures again."""
    told = [("command", compare.get("command")), ("budget", compare.get("budget"))]
    seeds = compare.get("seeds") or []
    told += [("seeds", ", ".join(map(str, seeds)))] if len(seeds) > 1 else [("seed", compare.get("seed"))]
    told += [(str(k), v) for k, v in (compare.get("versions") or {}).items()]
    told += [(str(k), v) for k, v in (compare.get("machine") or {}).items()]
    told += [("made", compare.get("created"))]
    return [(name, _word(value)) for name, value in told if value not in (None, "")]
