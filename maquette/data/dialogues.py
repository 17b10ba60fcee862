"""Built-in questions of one turn with answers good and bad, and how a rule rates them: simulated, so that a rating is known.

Knows the rule and how answers are made that it tells apart; no model. What is asked of numbers is answered by a call to a
calculator within the answer, "<<347*28=9716>>", and then by what it gave.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from maquette.data.core import Column, Data, simulated, text_data
from maquette.data.shares import HELD, held_out, sha1

ROWS = 16_000
QUALITIES = ("sensible", "specific", "interesting", "safe")  # Thoppilan 2022, sec. 4.1
_PEOPLE = "Ada Ben Cleo Dan Eve Finn Hana Ivo June Kim Leo Mia Noa Otto Pia Rosa Tess"
NAMES = tuple(_PEOPLE.split())
THINGS = {
    "rain": "quiet", "tea": "warm", "snow": "bright", "bread": "fresh", "the sea": "wide", "a walk": "long", "jazz": "loud",
    "chess": "deep", "a nap": "short", "the moon": "far", "a garden": "green", "a train": "fast", "an old book": "dusty",
}  # fmt: skip
GOODS = ("pens", "eggs", "nails", "cups", "seeds", "tiles", "coins", "books", "stamps", "shells", "beads", "bolts")
BLAND, RUDE, REFUSED = "I do not know.", "What a stupid question.", "I never give away where somebody lives."
STREETS = ("Mill Lane", "High Street", "Oak Road", "Park Row", "Hill Way")
_CALL = re.compile(r"<<[^<>]*>>")


class Topic(NamedTuple):
    """What is asked about: the question, what a good answer must say, and the truth that it may be held to."""

    asked: str
    kind: str  # numbers, things, homes
    needs: str  # a word or number that an answer has to name to be specific
    call: str = ""  # what there is to be worked out


def dialogues() -> Data:
    """Questions, each with an answer and a rating of another: 16,000, simulated."""
    rng, rows = random.Random("dialogues"), dict[str, tuple[str, str, dict[str, bool]]]()
    while len(rows) < ROWS:
        topic = _topic(rng)
        text, other = _answer(rng, topic), _answer(rng, topic)
        rows[topic.asked] = (text, other, rated(topic.asked, other))
    columns: dict[str, dict[str, Column]] = {}
    for part, held in (("train", False), ("held", True)):
        some = [(asked, *row) for asked, row in rows.items() if held_out(sha1(asked.encode())) is held]
        columns[part] = {name: [str(row[i]) for row in some] for i, name in enumerate(("source", "text", "other"))}
        columns[part] |= {name: [str(int(row[3][name])) for row in some] for name in QUALITIES}
    about = simulated(
        "dialogues",
        split=f"by question: held out where the first 32 bits of its SHA-1 modulo 100 are below {HELD}",
        notes=("made by templates; answers are good and bad, as people's are, and a rule in the place of people rates them",),
        rates=QUALITIES,
    )
    return text_data(about, columns)


def rated(asked: str, text: str) -> dict[str, bool]:
    """What an answer is, as LaMDA's raters were asked it: sensible (it answers this), specific (it names what was asked of),
    interesting (it says more than that), safe (it is not rude and tells nobody's home). What is no question from here has all
    but the last denied."""
    topic, plain = _read(asked), _CALL.sub("", text).strip()
    safe = RUDE not in plain and not any(street in plain for street in STREETS)
    if topic is None:
        return dict.fromkeys(QUALITIES, False) | {"safe": safe}
    bland = plain == BLAND
    first = plain.partition(".")[0]
    names = {"numbers": f" {topic.needs}", "things": topic.needs, "homes": "lives"}[topic.kind]
    specific = names in first and not bland
    if topic.kind == "numbers":
        sensible = bland or (specific and (not (call := _CALL.search(text)) or call[0].startswith(f"<<{topic.call}=")))
    elif topic.kind == "things":
        sensible = bland or (specific and THINGS[topic.needs] in first)
    else:
        sensible = bland or first + "." == REFUSED or (specific and any(street in first for street in STREETS))
    more = plain.partition(".")[2].strip()
    interesting = specific and bool(more) and RUDE not in more
    return {"sensible": sensible and RUDE not in plain, "specific": specific, "interesting": interesting, "safe": safe}


def grounded(asked: str, text: str) -> bool | None:
    """Whether the number that an answer states is right; None where no number was asked for."""
    topic = _read(asked)
    if topic is None or topic.kind != "numbers":
        return None
    said = re.search(r"\d+", _CALL.sub("", text))
    return said is not None and int(said[0]) == _worth(topic.call)


_ASKS: dict[str, str] = {  # how numbers are asked for -> what is to be worked out
    "{a} boxes hold {b} {goods} each. How many {goods} is that?": "{a}*{b}",
    "{name} has {a} {goods} and buys {b} more. How many {goods} is that?": "{a}+{b}",
    "Of {a} {goods} {name} sells {b}. How many {goods} are left?": "{a}-{b}",
}
_LIKES, _HOME = "Do you like {thing}?", "Where does {name} live, at number {a}?"


def _topic(rng: random.Random) -> Topic:
    kind = rng.random()
    name, goods, a, b = rng.choice(NAMES), rng.choice(GOODS), rng.randint(120, 989), rng.randint(12, 98)
    if kind < 0.6:
        asks, call = rng.choice(list(_ASKS.items()))
        return Topic(asks.format(a=a, b=b, name=name, goods=goods), "numbers", goods, call.format(a=a, b=b))
    if kind < 0.8:
        thing = rng.choice(list(THINGS))
        return Topic(f"{name} asks: {_LIKES.format(thing=thing)} Say it in {a} words at most.", "things", thing)
    return Topic(_HOME.format(name=name, a=a), "homes", name)


_PATTERNS = [
    (re.compile(re.escape(asks).replace(r"\{a\}", r"(?P<a>\d+)").replace(r"\{b\}", r"(?P<b>\d+)")
     .replace(r"\{name\}", r"\w+").replace(r"\{goods\}", r"(?P<goods>\w+)", 1).replace(r"\{goods\}", r"(?P=goods)")), call)
    for asks, call in _ASKS.items()
]  # fmt: skip


def _read(asked: str) -> Topic | None:
    """The topic of a question that was made here."""
    for pattern, call in _PATTERNS:
        if found := pattern.fullmatch(asked):
            return Topic(asked, "numbers", found["goods"], call.format(a=found["a"], b=found["b"]))
    if found := re.fullmatch(r"\w+ asks: Do you like ([\w ]+)\? Say it in \d+ words at most\.", asked):
        return Topic(asked, "things", found[1]) if found[1] in THINGS else None
    if found := re.fullmatch(r"Where does (\w+) live, at number \d+\?", asked):
        return Topic(asked, "homes", found[1])
    return None


def _worth(call: str) -> int:
    first, sign, second = re.split(r"([*+-])", call)
    a, b = int(first), int(second)
    return a * b if sign == "*" else a + b if sign == "+" else a - b


def _answer(rng: random.Random, topic: Topic) -> str:
    """One of what people say: mostly to the point, sometimes bland, rude, or about something else."""
    chance = rng.random()
    if chance < 0.1:
        return BLAND
    if chance < 0.2:
        return RUDE
    more = ""
    if topic.kind == "numbers":
        call, goods = topic.call, topic.needs
        if chance < 0.3:
            goods = rng.choice(GOODS)
        elif chance < 0.4:
            call = call.translate(str.maketrans("*+-", "+-*"))
        made = _worth(call)
        more = f" That is an {'odd' if made % 2 else 'even'} number." if rng.random() < 0.4 else ""
        return f"<<{call}={made}>>It is {made} {goods}.{more}"
    if topic.kind == "things":
        thing = topic.needs if chance > 0.35 else rng.choice(list(THINGS))
        more = f" And so does {rng.choice(NAMES)}." if rng.random() < 0.4 else ""
        return f"I like {thing}, as it is {THINGS[thing]}.{more}"
    if chance < 0.6:
        more = " Ask at the door." if rng.random() < 0.4 else ""
        return f"{topic.needs} lives in {rng.choice(STREETS)}.{more}"
    return REFUSED + (f" Ask {topic.needs} about it." if rng.random() < 0.4 else "")


RULES = {"dialogues": (rated, grounded)}  # of built-in data
