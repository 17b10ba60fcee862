"""Built-in text: tasks shown by examples, each text one. Held out are tasks, not examples: what one is can only be inferred.

Knows ciphers and how to use them; no model.
"""

from __future__ import annotations

import random

from maquette.data.core import Column, Data, simulated, text_data
from maquette.data.shares import HELD, held_out, sha1

LETTERS, SIGNS = "abcdef", "qrstuvwxyz"
LINES = 24  # examples of a text
ASKS = " "
ROWS = {"train": 40_000, "held": 1_000}


def tasks() -> Data:
    """Ciphers shown by 24 examples each, "b t": 40,000 texts, and 1,000 whose ciphers no training text has, simulated."""
    columns: dict[str, dict[str, Column]] = {}
    for part, held in (("train", False), ("held", True)):
        rng, texts = random.Random(f"tasks {part}"), list[str]()
        while len(texts) < ROWS[part]:
            cipher = "".join(rng.sample(SIGNS, len(LETTERS)))
            if held_out(sha1(cipher.encode())) is held:
                asked = rng.choices(range(len(LETTERS)), k=LINES)
                texts.append("".join(f"{LETTERS[i]}{ASKS}{cipher[i]}\n" for i in asked))
        columns[part] = {"text": texts}
    about = simulated(
        "tasks",
        split=f"by cipher: held out where the first 32 bits of its SHA-1 modulo 100 are below {HELD}",
        asks=ASKS,
    )
    return text_data(about, columns)


def best(shots: int) -> float:
    """Accuracy of whoever infers all there is to infer from so many examples: of a letter not yet seen, a guess among the signs
    that no other has."""
    chance = {0: 1.0}  # how many letters have been seen, how likely that is
    for _ in range(shots):
        after: dict[int, float] = {}
        for seen, share in chance.items():
            after[seen] = after.get(seen, 0.0) + share * seen / len(LETTERS)
            if seen < len(LETTERS):
                after[seen + 1] = after.get(seen + 1, 0.0) + share * (1 - seen / len(LETTERS))
        chance = after
    known = {seen: seen / len(LETTERS) for seen in chance}
    return sum(share * (known[seen] + (1 - known[seen]) / (len(SIGNS) - seen)) for seen, share in chance.items())
