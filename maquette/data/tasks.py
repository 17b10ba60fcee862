"""Built-in text: small tasks shown by examples, each text one task. Held out are tasks, not examples: what is left is to infer.

Knows how to make strings from strings; no model, and not how examples are used.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

from maquette.data.core import Column, Data, Facts, text_data

LETTERS = "abcdefghij"
LONG = 3  # letters of a word
SHOTS = 9  # examples of a text
ASKS = ">"
ROWS = {"train": 40_000, "held": 1_000}
HELD = 5  # one task in so many

Change = Callable[[str], str]


def _moved(by: int) -> Change:
    return lambda word: "".join(LETTERS[(LETTERS.index(letter) + by) % len(LETTERS)] for letter in word)


def _placed(*order: int) -> Change:
    return lambda word: "".join(word[i] for i in order)


CHANGES: tuple[Change, ...] = (
    *(_placed(*order) for order in ((2, 1, 0), (1, 2, 0), (2, 0, 1), (1, 0, 2), (0, 2, 1))),  # reversed, turned, exchanged
    *(_placed(*order) for order in ((0, 0, 0), (2, 2, 2), (0, 1, 1), (0, 0, 2))),  # one letter for another
    *(_moved(by) for by in (1, -1, 2)),
    lambda word: "".join(sorted(word)),
    _placed(0, 1, 2),
)


def every() -> list[Change]:
    """Every change followed by every other, each once however it is made, in a fixed order."""
    words = ["".join(word) for word in product(LETTERS[:4], repeat=LONG)]
    found: dict[tuple[str, ...], Change] = {}
    for first, then in product(CHANGES, repeat=2):
        both: Change = lambda word, first=first, then=then: then(first(word))  # type: ignore[misc]  # noqa: E731
        found.setdefault(tuple(map(both, words)), both)
    return list(found.values())


def tasks() -> Data:
    """Tasks on three letters shown by nine examples, "abc>cba": 40,000 texts of 58 tasks, 1,000 of 14 others, simulated."""
    known = every()
    parts = {
        "train": [change for i, change in enumerate(known) if i % HELD != HELD - 1],
        "held": [change for i, change in enumerate(known) if i % HELD == HELD - 1],
    }
    columns: dict[str, dict[str, Column]] = {}
    for part, changes in parts.items():
        rng = random.Random(f"tasks {part}")
        columns[part] = {"text": [_text(changes[i % len(changes)], rng) for i in range(ROWS[part])]}
    about = Facts(
        name="tasks",
        field="text",
        kind="simulated",
        licence="Apache-2.0",
        attribution="maquette",
        hash="",
        rows={},
        split=f"by task: every {HELD}th of {len(known)} distinct compositions of two changes is held out",
        asks=ASKS,
    )
    return text_data(about, columns)


def _text(change: Change, rng: random.Random) -> str:
    """Examples of one task, a line each."""
    words = ["".join(rng.choices(LETTERS, k=LONG)) for _ in range(SHOTS)]
    return "".join(f"{word}{ASKS}{change(word)}\n" for word in words)
