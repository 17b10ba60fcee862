"""Built-in code: functions of numbers, words or letters, said in words, written in Python, checked by what they give. Simulated.

Each is put together of parts: how much of the argument, which of it, what becomes of each, what is made of all, and what of that.
Held out are pairs of parts: a held-out function has two together that no function for training has, while each of the two is in
many. Knows what is right by computing it here; runs no text.
"""

from __future__ import annotations

import ast
import hashlib
import json
import random
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from maquette.data import function_parts
from maquette.data.cache import cached
from maquette.data.core import Column, Data, simulated, text_data
from maquette.data.function_parts import ALL, NUMBERS, SUBJECTS, THEN, Part, Subject
from maquette.data.shares import HELD, held_out, sha1
from maquette.sandbox.checking import checked
from maquette.sandbox.inside import told

ROWS = {"train": 10_000, "held": 400}
CHECKS = 8  # calls of each
OFTEN = (5, 3, 2)  # how often each subject comes
MODULES = ("collections", "itertools", "math")  # that functions import
LETTERS = "abdeinorst"
_IMPORTS = {
    "math.": "import math",
    "Counter(": "from collections import Counter",
    "accumulate(": "from itertools import accumulate",
}
_WHAT = {"none": 0, "one": 1, "two": 2, "else": 3}  # what becomes of each: how many parts say it
Row = tuple[str, str, str, str]  # text, how it begins, its checks, its parts
_PLURAL, _SINGULAR = {"are": "are", "have": "have", "s": ""}, {"are": "is", "have": "has", "s": "s"}


@dataclass
class Used:
    """A part with its number or letter in place: `value` where it is fixed, or `name`, the argument that it is."""

    part: Part
    value: Any = None
    name: str = ""

    def fill(self, template: str, **more: str) -> str:
        said = self.name or repr(self.value)
        return template.format(**{"k": said, "l": said, **more})

    def does(self, of: Any, given: Any) -> Any:
        return self.part.does(of, given if self.name else self.value)

    @property
    def kind(self) -> str:
        """What it has a place for: "number", "letter" or nothing."""
        text = self.part.words[0] + self.part.code + self.part.step
        return "number" if "{k}" in text else "letter" if "{l}" in text else ""


@dataclass
class Layout:
    """Which parts a function has, and how they hang together.

    both: "and" or "or" between two of `which`. what: none, one, two one behind the other, or, with `unless`, one or the other.
    """

    subject: Subject
    take: list[Used]
    which: list[Used]
    both: str
    unless: list[Used]
    what: list[Used]
    whole: list[Used]
    then: list[Used] = field(default_factory=list)

    @property
    def used(self) -> list[Used]:
        return [*self.take, *self.which, *self.unless, *self.what, *self.whole, *self.then]


def functions() -> Data:
    """Small Python functions, said in words, with checks: 10,000, and 400 with pairs of parts that no other has, simulated."""
    key = hashlib.sha256(f"{ROWS} {CHECKS} {OFTEN}".encode())
    for module in (function_parts.__file__, __file__):
        key.update(Path(module).read_bytes())
    found = json.loads(cached("functions", key.hexdigest(), lambda: json.dumps(_made()).encode()))
    columns: dict[str, dict[str, Column]] = {
        part: {name: [row[i] for row in rows] for i, name in enumerate(("text", "prompt", "check", "parts"))}
        for part, rows in found.items()
    }
    about = simulated(
        "functions",
        split="by pairs of parts: held out are functions with a pair, by name and in alphabetical order, whose first 32 bits of "
        f"SHA-1 modulo 100 are below {HELD}; functions without any are for training",
        notes=(
            "functions are templated: passing here says that known parts are put together anew, not that programs are written",
        ),
    )
    return text_data(about, columns)


def _made() -> dict[str, list[Row]]:
    """Every function of each split."""
    return {part: [row for row, _ in made(part)] for part in ROWS}


def made(part: str) -> Iterator[tuple[Row, Layout]]:
    """The functions of a split, "train" or "held", each once, and the layout of each."""
    rng, known = random.Random(f"functions {part}"), set[str]()
    while len(known) < ROWS[part]:
        layout = composed(rng, part == "held")
        prompt, text, check = written(layout, rng)
        if check and text not in known:
            known.add(text)
            yield (text, prompt, check, " | ".join(names(layout))), layout


def names(layout: Layout) -> list[str]:
    """A name for each part."""
    return [used.part.words[0] for used in layout.used]


def apart(parts: Sequence[str]) -> bool:
    """Whether two of these parts are not together in training."""
    return any(held_out(sha1(" | ".join(sorted(pair)).encode())) for pair in combinations(parts, 2))


def composed(rng: random.Random, held: bool) -> Layout:
    """Parts that are held out together, or that are not; how many there are does not depend on which."""
    subject = rng.choices(SUBJECTS, OFTEN)[0]
    counts: dict[str, Any] = {
        "take": rng.random() < 0.5,
        "which": rng.choices((0, 1, 2), (2, 5, 3))[0],
        "what": rng.choices([*_WHAT], (2, 4, 2, 2))[0],
        "then": rng.random() < 0.5,
    }
    if counts["take"] + counts["which"] + _WHAT[counts["what"]] < 2:
        return composed(rng, held)
    while True:
        layout = _drawn(subject, counts, rng)
        if apart(names(layout)) is held:
            break
    asked = [used for used in layout.used if used.kind]
    given = rng.choice(asked) if asked and rng.random() < 0.4 else None
    for used in asked:
        used.value = rng.randint(2, 9) if used.kind == "number" else rng.choice(LETTERS)
        used.name = {"number": "n", "letter": "letter"}[used.kind] if used is given else ""
    return layout


def _drawn(subject: Subject, counts: dict[str, Any], rng: random.Random) -> Layout:
    """Parts of a subject, so many, that fit together."""
    what, unless = list[Used](), list[Used]()
    if counts["what"] != "none":
        what.append(Used(rng.choice(subject.what)))
    if counts["what"] == "two":
        others = NUMBERS.what if what[0].part.gives else subject.what
        what.append(Used(rng.choice([part for part in others if part is not what[0].part])))
    if counts["what"] == "else":
        unless.append(Used(rng.choice(subject.which)))
        kinds = [part for part in subject.what if not part.gives]
        what[:] = map(Used, rng.sample(kinds, 2))
    count = any(used.part.gives for used in what)
    whole = Used(rng.choice((NUMBERS if count else subject).whole))
    layout = Layout(
        subject,
        [Used(rng.choice(ALL))] if counts["take"] else [],
        [Used(part) for part in rng.sample(subject.which, counts["which"])],
        rng.choice(("and", "or")),
        unless,
        what,
        [whole],
    )
    if counts["then"] and whole.part.gives == "number":
        layout.then = [Used(rng.choice(THEN))]
    return layout


def written(layout: Layout, rng: random.Random) -> tuple[str, str, str]:
    """(how a function begins, its docstring included; all of it; its checks, as `checked` writes them, "" where they tell
    little) of a layout."""
    name = rng.choice(layout.subject.names)
    given = next((used for used in layout.used if used.name), None)
    head = f"def f({name}, {given.name}):" if given else f"def f({name}):"
    prompt = f'{head}\n    """Return {said(layout, name, rng)}."""\n'
    body = textwrap.indent(coded(layout, name, rng.random() < 0.3), "    ")
    pairs = []
    for i in range(CHECKS):
        about = argument(layout.subject, rng, 0 if i + 1 == CHECKS else rng.randint(4, 9))
        more = second(given, rng)
        call = f"f({about!r}, {more!r})" if given else f"f({about!r})"
        pairs.append((call, told(right(layout, about, more))))
    few = len({value for _, value in pairs}) < (2 if pairs[0][1] in ("True", "False") else 4)
    return prompt, prompt + body, "" if few else checked(pairs, imports=MODULES)


def second(given: Used | None, rng: random.Random) -> Any:
    """What a function's second argument may be, where a part has one in its place; else None."""
    return None if given is None else rng.randint(2, 9) if given.kind == "number" else rng.choice(LETTERS)


def argument(subject: Subject, rng: random.Random, size: int) -> Any:
    """What a function of a subject may be called with, of about so many things."""
    if subject is NUMBERS:
        return [rng.randint(-20, 20) for _ in range(size)]
    if subject.name == "letters":
        return "".join(rng.choice(LETTERS) for _ in range(2 * size))
    return ["".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 7))) for _ in range(size)]


# -- in words, in code, and done -----------------------------------------------------------------------------------------


def said(layout: Layout, name: str, rng: random.Random) -> str:
    """What a function returns, in words."""

    def worded(used: Used, words: Sequence[str] = (), **more: str) -> str:
        return used.fill(rng.choice(words or used.part.words), **more)

    of = name
    for used in layout.take:
        of = worded(used, of=of)
    if layout.which:
        clause = f" {layout.both} ".join(worded(used, **_PLURAL) for used in layout.which)
        of = rng.choice((f"the {layout.subject.those[0]} in {of} that {clause}", f"those of {of} that {clause}"))
    if layout.unless:
        one, other = (worded(used, used.part.own) for used in layout.what)
        true = worded(layout.unless[0], **_SINGULAR)
        of = f"what each of {of} becomes ({one} if it {true}, else {other})"
    elif len(layout.what) == 2:  # in an order that is said: one behind the other would leave it open
        one, other = (worded(used, used.part.own) for used in layout.what)
        of = f"what each of {of} becomes (first {one}, then {other})"
    else:
        for used in layout.what:
            of = worded(used, of=of)
    for used in (*layout.whole, *layout.then):
        of = worded(used, of=of)
    return of


def coded(layout: Layout, name: str, loop: bool) -> str:
    """The lines of a function's body."""
    x, source = layout.subject.each, name
    for used in layout.take:
        source = used.fill(used.part.code, xs=source)
    test = f" {layout.both} ".join(used.fill(used.part.code, x=x) for used in layout.which)
    made = [used.fill(used.part.code, x=x) for used in layout.what]
    if layout.unless:
        value = f"{made[0]} if {layout.unless[0].fill(layout.unless[0].part.code, x=x)} else {made[1]}"
    else:
        value = x
        for used in layout.what:
            value = used.fill(used.part.code, x=value if value == x else f"({value})")
    used = layout.whole[0]
    each = f"{value} for {x} in {source}" + (f" if {test}" if test else "")
    lines, result = _looped(used, x, source, test, value) if loop or not used.part.code else ("", _folded(used, each))
    for last in layout.then:
        if last.part.code.count("{r}") > 1 and not result.isidentifier():
            lines, result = lines + f"result = {result}\n", "result"
        result = last.fill(last.part.code, r=result)
    body = f"{lines}return {result}"
    needed = [line for mark, line in _IMPORTS.items() if re.search(rf"\b{re.escape(mark)}", body)]
    tidy = ast.unparse(ast.parse(body)) + "\n"  # no more parentheses than it takes
    return "".join(f"{line}\n" for line in needed) + ("\n" if needed else "") + tidy


def _folded(used: Used, each: str) -> str:
    """What is made of all, of a comprehension."""
    code = used.part.code
    inner = each if "[{xs}]" in code else f"({each})"
    return used.fill(code, xs=inner)


def _looped(used: Used, x: str, source: str, test: str, value: str) -> tuple[str, str]:
    """The same by a loop: its lines, and what comes of them."""
    part = used.part
    begin, step, result = part.begin, part.step, part.result
    if not begin:
        begin, step, result = "found = []", "found.append({x})", part.code.replace("[{xs}]", "{xs}").replace("{xs}", "found")
    inner = used.fill(step, x=f"({value})")
    inner = f"if {test}:\n{textwrap.indent(inner, '    ')}" if test else inner
    return f"{begin}\nfor {x} in {source}:\n{textwrap.indent(inner, '    ')}\n", used.fill(result)


def right(layout: Layout, about: Any, given: Any) -> Any:
    """What a function gives for an argument, and the second where it has one."""
    for used in layout.take:
        about = used.does(about, given)
    of: Callable[[Any], bool] = all if layout.both == "and" else any  # type: ignore[assignment]
    if layout.which:
        about = [x for x in about if of([used.does(x, given) for used in layout.which])]  # type: ignore[arg-type]
    made = []
    for x in about:
        if layout.unless:
            x = layout.what[0 if layout.unless[0].does(x, given) else 1].does(x, given)
        else:
            for used in layout.what:
                x = used.does(x, given)
        made.append(x)
    found: Any = made
    for used in (*layout.whole, *layout.then):
        found = used.does(found, given)
    return found
