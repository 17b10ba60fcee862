"""Built-in pairs of several tasks, each told by its first words: what one text-to-text model can learn at once.

Knows the other built-in pairs and texts; makes none of its own but by hiding spans.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from maquette.data.core import Column, Data, Split, text_data
from maquette.data.docstrings import apiqa, summaries
from maquette.data.localized import dates
from maquette.data.python_source import stdlib_prose
from maquette.data.spans import hidden, pieces

TASKS: dict[str, tuple[str, Callable[[], Data], int]] = {  # name -> what its sources begin with, of what, training rows at most
    "translate": ("translate to ", dates, 8_000),
    "summarize": ("summarize: ", summaries, 8_000),
    "question": ("question: ", apiqa, 8_000),
}
SPANS = 6_000  # training rows of hidden spans
HELD = 300  # rows of a task at most
_Row = TypeVar("_Row")


def chores() -> Data:
    """Four tasks for one model: dates into German and ISO, summaries, questions on Python, hidden spans: 25,000 pairs."""
    able = {name: task for name, task in TASKS.items() if task[1] is not dates or importlib.util.find_spec("babel")}
    opened = {name: task[1]() for name, task in able.items()}
    columns: dict[str, dict[str, Column]] = {}
    for part in ("train", "held"):
        rows: list[tuple[str, str, str]] = []
        for name, (told, _, most) in able.items():
            some = _some(opened[name].splits[part], most if part == "train" else HELD)
            rows += [(told + source, text, name) for source, text in some]
        prose = stdlib_prose().splits[part].columns["text"]
        cut = pieces([str(text) for text in prose])
        rows += [(*hidden(text), "spans") for text in _spread(cut, SPANS if part == "train" else HELD)]
        rows = _spread(rows, len(rows))
        columns[part] = {"source": [r[0] for r in rows], "text": [r[1] for r in rows], "task": [r[2] for r in rows]}
    notes = () if len(able) == len(TASKS) else ("without dates: pip install 'maquette[text]'",)
    facts = replace(
        opened["summarize"].facts,
        name="chores",
        hash="",
        rows={},
        kind="real",
        licence="PSF-2.0, BSD-3-Clause and its family, Unicode-3.0",
        attribution="; ".join(dict.fromkeys(data.facts.attribution for data in opened.values())),
        split="each part as its own data have it",
        notes=(*notes, *dict.fromkeys(note for data in opened.values() for note in data.facts.notes)),
        sources=True,
    )
    return text_data(facts, columns)


def _some(split: Split, most: int) -> list[tuple[str, str]]:
    """Pairs, evenly spread over all."""
    pairs = list(zip(split.columns["source"], split.columns["text"], strict=True))
    return _spread(pairs, min(most, len(pairs)))


def _spread(rows: list[_Row], count: int) -> list[_Row]:
    """`count` of some rows, evenly spread, in a fixed order that mixes them."""
    count = min(count, len(rows))
    picked = [rows[i * len(rows) // count] for i in range(count)]
    stride = next((step for step in range(count * 5 // 8, count) if math.gcd(step, count) == 1), 1)
    return [picked[i * stride % count] for i in range(count)]
