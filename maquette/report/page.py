"""A comparison, or one run, as a single HTML file that needs no other: pictures, figures with their doubt, plain words.

Knows evaluations, logs and samples as dictionaries and tensors. Every word that comes from outside is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maquette.report.axes import count, duration, finite, short
from maquette.report.curves import Point, loss_curves
from maquette.report.dots import interval_plot
from maquette.report.gallery import pairs, sheet
from maquette.report.meanings import GROUPS, OTHER, explain
from maquette.report.standing import BEST, CLOSE, LEADS, Cell, Column, columns, names
from maquette.report.story import findings, warnings

_SIGNS = {
    BEST: ("●", "best"),
    LEADS: ("○", "best value, not told apart from others"),
    CLOSE: ("≈", "not told apart from the best"),
}
_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
_COST = "What does it cost?"
MOST_TEXT, MOST_TEXTS = 4000, 3  # characters of a sample text, and texts per run


def write_page(path: str | Path, compare: dict[str, Any], runs: Sequence[dict[str, Any]]) -> Path:
    """report.html of a comparison.

    Args:
        compare: what compare.json holds: data, budget, machine, versions, command, and a row per system.
        runs: what is to be seen of the rows that succeeded: {"eval", "log", "samples", "labels", "real", "real_labels",
            "nearest", "facts"}; all but "eval" may be missing.
    """
    return _write(path, compare, list(runs), single=False)


def write_run_page(path: str | Path, run: dict[str, Any]) -> Path:
    """report.html of one run; `run` as in `write_page`, "record" may bring its run.json."""
    record = run.get("record") or {}
    evaluation = {"recipe": record.get("recipe", "run"), "metrics": {}, **(run.get("eval") or {})}
    data = run.get("facts") or record.get("data") or {}
    told = {**{key: record[key] for key in ("created", "command", "machine", "versions", "seed") if key in record}, "data": data}
    return _write(path, {**told, "rows": [{"status": "ok", **evaluation}]}, [{**run, "eval": evaluation}], single=True)


def _write(path: str | Path, compare: dict[str, Any], runs: list[dict[str, Any]], single: bool) -> Path:
    from maquette.storage import replace_durably

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, render(compare, runs, single).encode("utf-8", "replace"))
    return path


def render(compare: dict[str, Any], runs: list[dict[str, Any]], single: bool = False) -> str:
    """The page's text."""
    import jinja2
    from markupsafe import Markup

    import maquette

    here = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    script = here.get_template("page.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rows = list(compare.get("rows") or [])
    titles = names(rows)
    shown = _matched(rows, runs)
    found = [column for column in columns(rows) if not column.metric.endswith("(real)")]
    floors = compare.get("floors") or {}
    facts = compare.get("data") or next((run["facts"] for run in runs if run.get("facts")), {})
    curves = loss_curves({name: points(run["log"]) for name, run in zip(titles, shown, strict=True) if run and run.get("log")})
    gallery, texts = _samples(titles, shown, facts)
    return here.get_template("page.html.j2").render(
        version=maquette.__version__,
        css=Markup(here.get_template("page.css.j2").render()),  # ours
        script=Markup(script),  # ours
        script_hash=f"sha256-{digest}",
        single=single,
        **_headline(compare, facts, titles, single),
        findings=[] if single else findings(found, titles),
        warnings=warnings(found, rows, titles),
        gallery=gallery,
        texts=texts,
        sample_note=_sample_note(facts, shown),
        heads=[{"name": name, "failed": row.get("status") == "failed"} for name, row in zip(titles, rows, strict=True)],
        floors=list(floors),
        board=_board(found, rows, floors),
        unlike=[
            f"{column.metric} is only compared within a letter; how they differ: {'; '.join(column.differs)}."
            for column in found
            if column.differs
        ],
        curves=Markup(curves),  # escaped where it is drawn
        meanings=_meanings(found, titles, floors, single, Markup),
        systems=[_system(name, row, run) for name, row, run in zip(titles, rows, shown, strict=True)],
        data=_data(facts),
        again=_again(compare),
    )


def _matched(rows: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """Each row's run: the one whose evaluation names the same folder, else the same recipe."""
    left, found = list(runs), []
    for row in rows:
        same = [run for run in left if (run.get("eval") or {}).get("run") == row.get("run") and row.get("run") is not None]
        same = same or [
            run
            for run in left
            if (run.get("eval") or {}).get("run") is None and (run.get("eval") or {}).get("recipe") == row.get("recipe")
        ]
        found.append(same[0] if same and row.get("status") != "failed" else None)
        left = [run for run in left if run is not found[-1]]
    return found


def points(log: Sequence[dict[str, Any]]) -> list[Point]:
    """Rows of log.jsonl as (step, seconds, values)."""
    kept = [row for row in log if finite(row.get("step")) is not None and finite(row.get("seconds")) is not None]
    skip = ("step", "seconds", "wall")
    return [
        (row["step"], row["seconds"], {k: v for k, v in row.items() if k not in skip and finite(v) is not None}) for row in kept
    ]


# -- the parts of the page -----------------------------------------------------------------------------------------------


def _headline(compare: dict[str, Any], facts: dict[str, Any], titles: list[str], single: bool) -> dict[str, Any]:
    data = str(facts.get("name") or "data")
    number = _NUMBERS[len(titles)] if len(titles) < len(_NUMBERS) else str(len(titles))
    title = f"{titles[0]} on {data}" if single else f"{number} {'system' if len(titles) == 1 else 'systems'} on {data}"
    rows = facts.get("rows") or {}
    parts = [f"{compare['budget']} of training each" if compare.get("budget") and not single else ""]
    parts.append(f"{count(rows['train'])} rows to learn from" if "train" in rows else "")
    parts.append(f"{count(rows['held'])} held out to judge by" if "held" in rows else "")
    lead = ", ".join(part for part in parts if part)
    kind = {"real": "Real data", "rendered": "Rendered data", "simulated": "Simulated data", "own": "Your own data"}.get(
        str(facts.get("kind")), ""
    )
    made = f"{kind}: {facts.get('attribution') or data}. Licence: {facts.get('licence') or 'not stated'}." if kind else ""
    created = str(compare.get("created") or "")
    words = f"{lead[:1].upper()}{lead[1:]}. {made}" if lead else made
    return {
        "title": title,
        "eyebrow": "maquette run" if single else "maquette comparison",
        "lead": words,
        "created": created.replace("T", " ")[:16],
    }


def _samples(
    titles: list[str], shown: list[dict[str, Any] | None], facts: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sheets of pictures, the real ones first; and texts."""
    gallery: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    classes = list(facts.get("classes") or [])
    real = next((run for run in shown if run and run.get("real") is not None and hasattr(run["real"], "ndim")), None)
    for name, run in zip(titles, shown, strict=True):
        samples = run.get("samples") if run else None
        if samples is None or len(samples) == 0 or run is None:
            continue
        if isinstance(samples, list):
            texts.append({"name": name, "samples": [_text(sample, run, i) for i, sample in enumerate(samples[:MOST_TEXTS])]})
            continue
        if real is not None and not gallery:
            made = sheet(real["real"], real.get("real_labels"), classes, "Real", "Held-out rows of the data.")
            gallery.append({**made, "real": True, "note": "held out, never trained on"})
        sampler = (run["eval"].get("sampler") or {}).get("name", "")
        made = sheet(samples, run.get("labels"), classes, name, f"Samples of {name}{', a column per class' if classes else ''}.")
        gallery.append({**made, "note": sampler})
    return gallery, texts


def _text(sample: Any, run: dict[str, Any], at: int) -> dict[str, str]:
    words = str(sample)
    prompts = run.get("prompts") or []
    prompt = str(prompts[at]) if at < len(prompts) and words.startswith(str(prompts[at])) else ""
    rest = words[len(prompt) :]
    return {"prompt": prompt, "text": rest if len(rest) <= MOST_TEXT else rest[:MOST_TEXT] + " …"}


def _sample_note(facts: dict[str, Any], shown: list[dict[str, Any] | None]) -> str:
    seed = next((run["eval"].get("seed") for run in shown if run and run["eval"].get("seed") is not None), None)
    picked = "The first ones drawn, none picked by hand" + (f" (seed {seed})." if seed is not None else ".")
    classes = facts.get("classes") or []
    return picked + (" A column per class asked for." if classes and facts.get("field") == "image" else "")


def _board(found: list[Column], rows: list[dict[str, Any]], floors: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The leaderboard's rows, under the question that each figure helps to answer."""
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in GROUPS}
    for column in found:
        meaning = explain(column.metric)
        cells = [_cell(column, cell, row) for cell, row in zip(column.cells, rows, strict=True)]
        cells += [_plain(column.show(_floor(floors[name], column.metric)), "floor") for name in floors]
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


def _floor(floor: dict[str, Any], metric: str) -> float | None:
    value = floor.get(metric)
    return finite(value.get("value") if isinstance(value, dict) else value)


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


def _meanings(
    found: list[Column], titles: list[str], floors: dict[str, Any], single: bool, markup: type[str]
) -> list[dict[str, Any]]:
    """Each figure's words, and its plot where there is more than one system."""
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in GROUPS}
    for column in found:
        meaning = explain(column.metric)
        marks = {name: value for name in floors if (value := _floor(floors[name], column.metric)) is not None}
        told = {"asks": meaning.asks, "scale": meaning.scale, "trap": meaning.trap, "source": meaning.source} if meaning else {}
        plot = "" if single and not marks else markup(interval_plot(column, titles, marks))
        signatures = [(letter, str(signature)) for letter, signature in column.signatures.items()]
        figure = {"name": column.metric, "wish": column.wish, "plot": plot, "signatures": signatures, **told}
        groups[meaning.group if meaning else OTHER].append(figure)
    return [{"title": title, "figures": figures} for title, figures in groups.items() if figures]


def _system(name: str, row: dict[str, Any], run: dict[str, Any] | None) -> dict[str, Any]:
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
        "what": str(row.get("recipe", "")),
        "error": str(row.get("error") or "") if failed else "",
        "pairs": shown,
        "facts": facts,
    }


def _settings(values: dict[str, Any]) -> str:
    """{"name": "Heun", "steps": 20} -> "Heun, steps 20"."""
    return ", ".join(str(v) if k == "name" else f"{k} {_word(v)}" for k, v in values.items())


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _data(facts: dict[str, Any]) -> list[tuple[str, str]]:
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


def _again(compare: dict[str, Any]) -> list[tuple[str, str]]:
    """What it takes to get these figures again."""
    told = [("command", compare.get("command")), ("budget", compare.get("budget")), ("seed", compare.get("seed"))]
    told += [(str(k), v) for k, v in (compare.get("versions") or {}).items()]
    told += [(str(k), v) for k, v in (compare.get("machine") or {}).items()]
    told += [("made", compare.get("created"))]
    return [(name, _word(value)) for name, value in told if value not in (None, "")]
