"""A comparison, or one run, as a single HTML file that needs no other: pictures, figures with their doubt, plain words.

Knows evaluations, logs and samples as dictionaries and tensors. Every word that comes from outside is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maquette.report.axes import count, finite
from maquette.report.curves import Point, loss_curves
from maquette.report.gallery import sheet, strips
from maquette.report.ranking import rankings, told
from maquette.report.standing import columns, names, seeds_of, systems_of
from maquette.report.story import findings, listed, warnings
from maquette.report.tables import board, data_facts, meanings, ranks, reproduction, system

_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
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
    data = run.get("facts") or run.get("card") or record.get("data") or {}
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
    seeds, ranked = seeds_of(rows), rankings(rows)
    facts: dict[str, Any] = compare.get("data") or {}
    curves = loss_curves({name: points(run["log"]) for name, run in zip(titles, shown, strict=True) if run and run.get("log")})
    gallery, texts = _samples(titles, shown, facts)
    return here.get_template("page.html.j2").render(
        version=maquette.__version__,
        css=Markup(here.get_template("page.css.j2").render()),  # ours
        script=Markup(script),  # ours
        script_hash=f"sha256-{digest}",
        single=single,
        **_headline(compare, facts, titles, single),
        findings=[] if single else told(ranked, seeds) if seeds else findings(found, titles),
        warnings=warnings(found, rows, titles),
        gallery=gallery,
        texts=texts,
        sample_note=_sample_note(facts, shown),
        heads=[{"name": name, "failed": row.get("status") == "failed"} for name, row in zip(titles, rows, strict=True)],
        floors=list(floors),
        board=board(found, rows, floors),
        unlike=[
            f"{column.metric} is only compared within a letter; how they differ: {'; '.join(column.differs)}."
            for column in found
            if column.differs
        ],
        ranks=ranks(ranked),
        seeds=seeds,
        curves=Markup(curves),  # escaped where it is drawn
        meanings=meanings(found, titles, floors, single, Markup),
        systems=[system(name, row, run) for name, row, run in zip(titles, rows, shown, strict=True)],
        data=data_facts(facts),
        again=reproduction(compare),
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
    seeds, systems = seeds_of(compare.get("rows") or []), systems_of(compare.get("rows") or [])
    number = _NUMBERS[systems] if systems < len(_NUMBERS) else str(systems)
    title = f"{titles[0]} on {data}" if single else f"{number} {'system' if systems == 1 else 'systems'} on {data}"
    rows = facts.get("rows") or {}
    parts = [f"{_spaced(compare['budget'])} of training each" if compare.get("budget") and not single else ""]
    parts.append(f"with seeds {listed([str(seed) for seed in seeds])}" if seeds else "")
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


def _spaced(budget: Any) -> str:
    """ "60s" -> "60 s"."""
    words = str(budget)
    return f"{words[:-1]} {words[-1]}" if words[-1:] in ("s", "m", "h") and words[:-1].isdigit() else words


def _samples(
    titles: list[str], shown: list[dict[str, Any] | None], facts: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sheets of pictures, the real ones first, paths through latent spaces last; and texts."""
    gallery: list[dict[str, Any]] = []
    latent: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    classes = list(facts.get("classes") or [])
    real = next((run for run in shown if run and run.get("real") is not None and hasattr(run["real"], "ndim")), None)
    for name, run in zip(titles, shown, strict=True):
        samples = run.get("samples") if run else None
        if samples is None or len(samples) == 0 or run is None:
            continue
        if isinstance(samples, list):
            texts.append({"name": name, "samples": [_text(sample, run, i) for i, sample in enumerate(samples[:MOST_TEXTS])]})
            latent += strips(run, name)
            continue
        if real is not None and not gallery:
            made = sheet(real["real"], real.get("real_labels"), classes, "Real", "Held-out rows of the data.")
            gallery.append({**made, "real": True, "note": "held out, never trained on"})
        sampler = ((run.get("eval") or {}).get("sampler") or {}).get("name", "")
        made = sheet(samples, run.get("labels"), classes, name, f"Samples of {name}{', a column per class' if classes else ''}.")
        gallery.append({**made, "note": sampler})
        latent += strips(run, name)
    return gallery + latent, texts


def _text(sample: Any, run: dict[str, Any], at: int) -> dict[str, str]:
    words = str(sample)
    prompts = run.get("prompts") or []
    prompt = str(prompts[at]) if at < len(prompts) and words.startswith(str(prompts[at])) else ""
    rest = words[len(prompt) :]
    return {"prompt": prompt, "text": rest if len(rest) <= MOST_TEXT else rest[:MOST_TEXT] + " …"}


def _sample_note(facts: dict[str, Any], shown: list[dict[str, Any] | None]) -> str:
    seed = next(
        ((run.get("eval") or {}).get("seed") for run in shown if run and (run.get("eval") or {}).get("seed") is not None), None
    )
    picked = "The first ones drawn, none picked by hand" + (f" (seed {seed})." if seed is not None else ".")
    classes = facts.get("classes") or []
    return picked + (" A column per class asked for." if classes and facts.get("field") == "image" else "")
