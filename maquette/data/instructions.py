"""Built-in instructions with their answers, made by templates: simulated, and checked by the program that makes them.

Knows words and what can be asked of them; no model. Held out are words and numbers, and whole ways of putting two tasks together.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from maquette.data.core import Column, Data, simulated, text_data
from maquette.data.shares import HELD, held_out, sha1

_LIST = """
able acid atom aunt bake band barn bell bird blue boat bold bone book born bowl brick bring broad camp card cart cave
chair chalk cheap clay clear climb cloth cloud coal coat cold cook copper corn cream crop crown dance dark deep deer
desk dial dish door draw dream drum dust early earth east edge engine face farm fast field film fine fire fish flag
flame flat float flour foam fold fresh frost fruit game garden gate giant glad glass globe goat gold grain grape grass
green guest guide hand harp heavy hill honey horn horse house island ivory jacket juice kind king kite knife lake lamp
leaf lemon light lion long loud lunch map maple metal milk mint moon mouse music nail narrow nest night noble north
novel oak ocean olive onion open orange organ paint palm paper path pearl pencil piano pilot plant plate plum poem point
polar pond proud quick quiet rain ready ribbon rice ring river road robin rock roof root rope rose round royal salt sand
scarf sea seed shade sharp sheep shell ship shoe short silk silver sing sister sky sleep slow small smile smoke snow
soap soft song soup south spoon spring star steam steel stone storm straw sugar summer sun sweet swim table tall tea
tent thick thin tiger time town train tree truck tulip tunnel uncle valley velvet violin voice wagon walk wall warm
water wave west wheat wheel white wide wild wind winter wolf wood wool word yard year yellow young
"""
WORDS = tuple(_LIST.split())
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
CHANGES: dict[str, tuple[str, Callable[[str], str]]] = {  # name -> how it is asked for, what it makes of a word
    "backwards": ("backwards", lambda word: word[::-1]),
    "capitals": ("in capitals", str.upper),
    "twice": ("twice", lambda word: f"{word} {word}"),
    "first": ("without its first letter", lambda word: word[1:]),
    "marked": ("in brackets", lambda word: f"({word})"),
}
APART = {("backwards", "capitals"), ("twice", "first"), ("marked", "backwards")}  # put together in held-out rows alone
ROWS = 30_000
HELD_APART = 300  # rows of those


def instructions() -> Data:
    """Short instructions and their answers, "Write lamp backwards." -> "pmal": 30,000 by templates, simulated."""
    rng, rows = random.Random("instructions"), dict[str, tuple[str, str]]()
    makers = (*(_changed,) * 4, _sum, _sum, _day, _count, _order)
    for _ in range(ROWS):
        task, source, text = rng.choice(makers)(rng)
        rows[source] = (task, text)
    parts: dict[str, list[tuple[str, str, str]]] = {"train": [], "held": []}
    spare = 0
    for source, (task, text) in rows.items():
        if task.startswith("new"):
            spare += 1
            if spare <= HELD_APART:
                parts["held"].append((task, source, text))
        else:
            asked = source.partition(" ")[2]  # to write it and to say it is the same
            parts["held" if held_out(sha1(asked.encode())) else "train"].append((task, source, text))
    columns: dict[str, dict[str, Column]] = {
        name: {"source": [row[1] for row in some], "text": [row[2] for row in some], "task": [row[0] for row in some]}
        for name, some in parts.items()
    }
    about = simulated(
        "instructions",
        split=f"by instruction without its verb: held out where the first 32 bits of its SHA-1 modulo 100 are below {HELD}; and "
        "by pairs of changes",
        notes=(
            f"made by templates, of {len(WORDS)} words: whoever answers these follows no other instructions",
            "tasks of held-out rows that begin with 'new' put two changes together that no training row does",
        ),
    )
    return text_data(about, columns)


def _changed(rng: random.Random) -> tuple[str, str, str]:
    """One change of a word, or two, one after the other."""
    word = rng.choice(WORDS)
    names = rng.sample(list(CHANGES), rng.choice((1, 2)))
    made = word
    for name in names:
        made = CHANGES[name][1](made)
    verb = rng.choice(("Write", "Say"))
    task = "new: " if tuple(names) in APART else ""
    return task + "+".join(names), f"{verb} {word} {', then '.join(CHANGES[name][0] for name in names)}.", made


def _sum(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randrange(40), rng.randrange(40)
    if rng.random() < 0.5:
        return "sum", f"What is {a} + {b}?", str(a + b)
    return "difference", f"What is {max(a, b)} - {min(a, b)}?", str(abs(a - b))


def _day(rng: random.Random) -> tuple[str, str, str]:
    day, far = rng.randrange(7), rng.randrange(1, 15)
    word, sign = rng.choice((("after", 1), ("before", -1)))
    days = "day" if far == 1 else "days"
    return "day", f"Which day is {far} {days} {word} {DAYS[day]}?", DAYS[(day + sign * far) % 7]


def _count(rng: random.Random) -> tuple[str, str, str]:
    word = rng.choice(WORDS)
    if rng.random() < 0.5:
        return "letters", f"How many letters has {word}?", str(len(word))
    letter = rng.choice(word)
    return "count", f"How often is {letter} in {word}?", str(word.count(letter))


def _order(rng: random.Random) -> tuple[str, str, str]:
    words = rng.sample(WORDS, 3)
    if rng.random() < 0.5:
        return "sort", f"Sort {' '.join(words)}.", " ".join(sorted(words))
    place = rng.randrange(3)
    return "pick", f"Which is the {('first', 'second', 'third')[place]} of {' '.join(words)}?", words[place]
