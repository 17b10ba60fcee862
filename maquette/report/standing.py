"""Who stands where: which figures may be compared, which is best, and whether the intervals let one say so.

Knows evaluations as dictionaries (the rows of compare.json) and what an Estimate is; no terminal and no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import PurePath
from typing import Any

from maquette.metrics.estimate import Estimate, Signature, compare
from maquette.report.axes import decimals, finite

BEST = "best"  # better than every comparable figure, beyond the intervals' doubt
LEADS = "leads"  # the best value, but the intervals do not tell it from another's: no winner can be named
NOT_FINITE = "the value is not a finite number"
CLOSE = "close"  # not told apart from the best value


@dataclass(frozen=True)
class Cell:
    """One system's figure of one metric. `group`: figures of unlike groups are not compared ("" = all alike)."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    mark: str = ""
    group: str = ""
    why: str = ""  # why there is no value

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Column:
    """One metric over all systems, in the order of the rows.

    Args:
        better: "lower", "higher" or "" where nobody said; `aim`: the ideal, where it can be missed on both sides.
        places: decimals that its intervals deserve.
        signatures: how it was measured, per group.
        differs: how the signatures differ, a line per field, if they do.
    """

    metric: str
    better: str
    aim: float | None
    cells: tuple[Cell, ...]
    places: int
    signatures: dict[str, Signature]
    differs: tuple[str, ...] = ()

    @property
    def wish(self) -> str:
        """Which way is better, in words."""
        if self.aim is not None:
            return f"nearer {self.aim:.3g} is better"
        return f"{self.better} is better" if self.better else ""

    @property
    def arrow(self) -> str:
        return f"→ {self.aim:.3g}" if self.aim is not None else {"lower": "↓", "higher": "↑"}.get(self.better, "")

    def show(self, value: float | None) -> str:
        """A figure with this column's decimals."""
        if value is None:
            return "–"
        if value and abs(value) < 10.0**-self.places:  # far below the column's rounding: keep one digit
            return f"{value:.1g}"
        return f"{value:,.{self.places}f}"


def names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A name per row that tells it from the others: its recipe; its folder too where a recipe comes twice."""
    recipes = [str(row.get("recipe") or "?").rpartition(":")[2] for row in rows]
    found: list[str] = []
    for row, recipe in zip(rows, recipes, strict=True):
        name = recipe
        if recipes.count(recipe) > 1:
            folder = PurePath(str(row.get("run", ""))).name
            name = folder if recipe in folder else f"{recipe} {folder}".strip()
        plain, at = name, 2
        while name in found:
            name, at = f"{plain} ({at})", at + 1
        found.append(name)
    return found


def seeds_of(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The training seeds of a comparison's rows, in order; [] where they are of one seed, or nobody said."""
    found = sorted({row["training_seed"] for row in rows if row.get("training_seed") is not None})
    return found if len(found) > 1 else []


def systems_of(rows: Sequence[dict[str, Any]]) -> int:
    """How many systems a comparison is of: several seeds of a recipe are one."""
    return len({str(row.get("recipe")) for row in rows}) if seeds_of(rows) else len(rows)


def columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """Every metric that any row has, in the order they first appear."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.get("metrics") or {}))
    return [_column(metric, rows) for metric in metrics]


def _column(metric: str, rows: Sequence[dict[str, Any]]) -> Column:
    saved = [(row.get("metrics") or {}).get(metric) for row in rows]
    read = [None if entry is None else estimate_of(metric, entry) for entry in saved]
    kinds = list(dict.fromkeys(e.signature for e in read if e is not None))
    letters = {kind: chr(97 + i % 26) if len(kinds) > 1 else "" for i, kind in enumerate(kinds)}
    known = [entry for entry in saved if entry]
    better = next((str(entry["better"]) for entry in known if entry.get("better")), "")
    marks = [""] * len(rows)
    cells = []
    seeds = [row.get("training_seed") for row in rows]  # a run is best among those of its seed
    for kind, seed in product(kinds if better else [], dict.fromkeys(seeds)):
        marks = _marked(marks, {i: e for i, e in enumerate(read) if e and e.signature == kind and seeds[i] == seed})
    for row, entry, estimate, mark in zip(rows, saved, read, marks, strict=True):
        if entry is None or estimate is None:
            failed = row.get("status") == "failed"
            why = row.get("error") if failed else (row.get("skipped") or {}).get(metric)
            cells.append(Cell(None, why=str(why or ("failed" if failed else "not measured"))))
            continue
        value, low, high = (finite(entry.get(part)) for part in ("value", "low", "high"))
        why = "" if value is not None else NOT_FINITE
        cells.append(Cell(value, low, high, entry.get("n"), mark, letters[estimate.signature], why))
    aim = next((finite(entry.get("aim")) for entry in known if finite(entry.get("aim")) is not None), None)
    places = decimals([c.half for c in cells if c.half is not None], [c.value for c in cells if c.value is not None])
    signatures = {letters[kind]: kind for kind in kinds}
    return Column(metric, better, aim, tuple(cells), places, signatures, _differences(signatures))


def estimate_of(metric: str, saved: dict[str, Any]) -> Estimate:
    """A figure as it was saved, also by another program: what cannot be read counts as not known."""
    try:
        return Estimate.of(saved)
    except (KeyError, TypeError, ValueError):
        given = saved.get("signature")
        words = given if isinstance(given, str) else repr(sorted(given.items())) if isinstance(given, dict) else ""
        better = saved.get("better")
        nan = float("nan")
        known = {part: finite(saved.get(part)) for part in ("value", "low", "high")}
        if known["low"] is None or known["high"] is None or known["low"] > known["high"]:
            known["low"] = known["high"] = None
        ends = {part: nan if number is None else number for part, number in known.items()}
        return Estimate(
            **ends,
            n=saved.get("n") or 0,
            signature=Signature(words or metric),
            better="higher" if better == "higher" else "lower",
        )


def _marked(marks: list[str], alike: dict[int, Estimate]) -> list[str]:
    """The marks, with this group's best marked and those that the intervals do not tell from it."""
    alike = {i: e for i, e in alike.items() if finite(e.value) is not None}
    if len(alike) < 2:
        return marks
    best = min(alike, key=lambda i: alike[i].loss[0])
    tied = [i for i in alike if i != best and compare(alike[best], alike[i]) == 0]
    given = {best: LEADS if tied else BEST, **dict.fromkeys(tied, CLOSE)}
    return [given.get(i, mark) for i, mark in enumerate(marks)]


def _differences(signatures: dict[str, Signature]) -> tuple[str, ...]:
    """How the signatures of a metric differ, a line per field: "bound: exact (a), ELBO (b)"."""
    flat = {letter: flattened(signature) for letter, signature in signatures.items()}
    found = []
    for key in dict.fromkeys(key for signature in flat.values() for key in signature):
        if len({signature.get(key, "none") for signature in flat.values()}) > 1:
            found.append(f"{key}: " + ", ".join(f"{signature.get(key, 'none')} ({letter})" for letter, signature in flat.items()))
    return tuple(found)


def flattened(signature: Signature) -> dict[str, str]:
    """A signature's fields and options as one table of words; empty fields are left out."""
    plain = {k: str(v) for k, v in asdict(replace(signature, options=())).items() if v or k == "seed"}
    plain.pop("options", None)
    return {**plain, **{str(k): str(v) for k, v in signature.options}}


def floor_of(floor: dict[str, Any], metric: str) -> float | None:
    """A baseline's figure, given as a number or as an Estimate's dictionary; None where it has none."""
    value = floor.get(metric)
    return finite(value.get("value") if isinstance(value, dict) else value)
