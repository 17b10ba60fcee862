"""Built-in text: tasks shown by examples, each text one. Held out are tasks, not examples: what one is can only be inferred.

Knows ciphers and how to use them; no model.
"""

from __future__ import annotations

import random

from maquette.data.core import Column, Data, Facts, text_data
from maquette.data.shares import HELD, held_out, sha1

LETTERS, DIGITS = "abc", "0123456789"
LONG, LINES = 1, 24  # letters of a word, examples of a text
ASKS = ">"
ROWS = {"train": 40_000, "held": 1_000}


def tasks() -> Data:
    """Ciphers shown by nine examples, "bad>507": 40,000 texts, and 1,000 whose ciphers no training text has, simulated."""
    columns: dict[str, dict[str, Column]] = {}
    for part, held in (("train", False), ("held", True)):
        rng, texts = random.Random(f"tasks {part}"), list[str]()
        while len(texts) < ROWS[part]:
            cipher = "".join(rng.sample(DIGITS, len(LETTERS)))
            if held_out(sha1(cipher.encode())) is held:
                texts.append(_text(dict(zip(LETTERS, cipher, strict=True)), rng))
        columns[part] = {"text": texts}
    about = Facts(
        name="tasks",
        field="text",
        kind="simulated",
        licence="Apache-2.0",
        attribution="maquette",
        hash="",
        rows={},
        split=f"by cipher: held out where the first 32 bits of its SHA-1 modulo 100 are below {HELD}",
        asks=ASKS,
    )
    return text_data(about, columns)


def _text(cipher: dict[str, str], rng: random.Random) -> str:
    """Words and what one cipher makes of them, a line each."""
    words = ["".join(rng.choices(LETTERS, k=LONG)) for _ in range(LINES)]
    return "".join(f"{word}{ASKS}{''.join(cipher[letter] for letter in word)}\n" for word in words)


def best(shots: int) -> float:
    """Accuracy of whoever infers all that can be inferred after so many examples: a letter not yet seen is a guess among the
    digits that no other has."""
    chance = {0: 1.0}  # how many letters have been seen, how likely that is
    for _ in range(shots * LONG):
        after: dict[int, float] = {}
        for known, share in chance.items():
            after[known] = after.get(known, 0.0) + share * known / len(LETTERS)
            if known < len(LETTERS):
                after[known + 1] = after.get(known + 1, 0.0) + share * (1 - known / len(LETTERS))
        chance = after
    return sum(share * _right(known, LONG) for known, share in chance.items())


def _right(known: int, letters: int) -> float:
    """That all letters of a word are right, when so many of the alphabet are known; a right guess makes one more known."""
    if not letters:
        return 1.0
    told = known / len(LETTERS) * _right(known, letters - 1)
    return told + (1 - known / len(LETTERS)) / (len(DIGITS) - known) * _right(min(known + 1, len(LETTERS)), letters - 1)
