"""Built-in pairs of answers of which a rule says the better one: simulated, so that what is preferred is known.

Knows the rule, and how answers are made that it tells apart; no model.
"""

from __future__ import annotations

import random
import re

from maquette.data.core import Column, Data, simulated, text_data
from maquette.data.instructions import CHANGES, WORDS
from maquette.data.shares import HELD, held_out, sha1

KIND, RUDE = ("Gladly: ", "Of course: ", "With pleasure: "), ("Ugh, ", "Fine, ", "If I must: ")
ENDS, LOUD = (".", "", ". Anything else?"), ("!", "!!", "!!!")
LONG = 32  # characters from which on an answer is long-winded
TAIL = ", as anyone knows who can read"
ROWS = 12_000
_KIND, _ASKED = re.compile("|".join(map(re.escape, KIND))), re.compile(r"Please write (\w+) (.+)\.")


def manners() -> Data:
    """Pairs of answers, the better by a rule: right, kind once, short, never loud; 12,000, simulated."""
    rng, rows = random.Random("manners"), dict[tuple[str, str, str], None]()
    while len(rows) < ROWS:
        name = rng.choice(list(CHANGES))
        source = f"Please write {rng.choice(WORDS)} {CHANGES[name][0]}."
        pair = sorted((_answer(rng, source) for _ in range(2)), key=lambda text: -rule(source, text))
        if rule(source, pair[0]) > rule(source, pair[1]):
            rows[source, pair[0], pair[1]] = None
    columns: dict[str, dict[str, Column]] = {}
    for part, held in (("train", False), ("held", True)):
        some = [row for row in rows if held_out(sha1(row[0].encode())) is held]
        columns[part] = {name: [row[i] for row in some] for i, name in enumerate(("source", "text", "rejected"))}
    about = simulated(
        "manners",
        split=f"by question: held out where the first 32 bits of its SHA-1 modulo 100 are below {HELD}",
        notes=("made by templates; the better answer is the one that a rule likes more: right, kind once, short, never loud",),
    )
    return text_data(about, columns)


def rule(source: str, text: str) -> float:
    """How good an answer is: 2 for the right word, 1 for being kind once, -1 for each time more, for being rude, loud or long."""
    kind = len(_KIND.findall(text))
    bad = text.startswith(RUDE), "!" in text, len(text) > LONG
    return 2.0 * _right(source, text) + (1.0 if kind == 1 else -1.0 * max(0, kind - 1)) - sum(bad)


RULES = {"manners": rule}  # of built-in data


def _right(source: str, text: str) -> bool:
    """Whether the word that was asked for is what the answer says."""
    asked = _ASKED.fullmatch(source)
    change = next((change for said, change in CHANGES.values() if asked and said == asked[2]), None)
    if asked is None or change is None:
        return False
    body = text
    for opener in (*KIND, *RUDE):
        body = body.removeprefix(opener)
    said = re.match(r"[\w() ]*", body)
    return said is not None and said[0].strip() == change(asked[1])


def _answer(rng: random.Random, source: str) -> str:
    asked = _ASKED.fullmatch(source)
    assert asked is not None
    names = [name for name, (said, _) in CHANGES.items() if said == asked[2]]
    wrong = rng.random() < 0.25
    change = CHANGES[rng.choice(list(CHANGES)) if wrong else names[0]][1]
    opener = rng.choice((*KIND, *RUDE, "", "", ""))
    tail = TAIL if rng.random() < 0.2 else ""
    return f"{opener}{change(asked[1])}{tail}{rng.choice((*ENDS, *LOUD))}"
