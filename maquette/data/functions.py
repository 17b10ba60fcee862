"""Built-in code: functions of a list that are said in words, written in Python, and checked by what they give. Simulated.

Each is a chain of parts, which numbers, what becomes of them, what is made of all. Held out are shapes of code, chains without
their numbers, so that no held-out function was seen, nor one that differs by a number; each of its parts was. Knows what is right
by computing it here; runs no text.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from maquette.data.core import Column, Data, simulated, text_data
from maquette.data.shares import HELD, held_out, sha1
from maquette.sandbox.checking import checked
from maquette.sandbox.inside import told

ROWS = {"train": 8_000, "held": 300}
CHECKS = 6  # calls of each
NAMES = ("xs", "values", "numbers", "items")


@dataclass(frozen=True)
class Part:
    """Words and code, {k} in both for a number, {xs} for a list's name, {each} for what goes through it; and what it does."""

    words: tuple[str, ...]
    code: str
    does: Callable[[Any, int], Any]


WHICH = (
    Part(("the even numbers in {xs}", "the numbers in {xs} that are even"), "x % 2 == 0", lambda x, k: x % 2 == 0),
    Part(("the odd numbers in {xs}", "the numbers in {xs} that are odd"), "x % 2 == 1", lambda x, k: x % 2 == 1),
    Part(("the numbers in {xs} above {k}", "the numbers in {xs} that are more than {k}"), "x > {k}", lambda x, k: x > k),
    Part(("the numbers in {xs} below {k}", "the numbers in {xs} that are less than {k}"), "x < {k}", lambda x, k: x < k),
    Part(("the multiples of {k} in {xs}", "the numbers in {xs} that {k} divides"), "x % {k} == 0", lambda x, k: x % k == 0),
    Part(("the negative numbers in {xs}", "the numbers in {xs} below zero"), "x < 0", lambda x, k: x < 0),
    Part(("the positive numbers in {xs}", "the numbers in {xs} above zero"), "x > 0", lambda x, k: x > 0),
    Part(("the numbers in {xs} other than {k}", "the numbers in {xs} that are not {k}"), "x != {k}", lambda x, k: x != k),
)
WHAT = (
    Part(("{which}",), "x", lambda x, k: x),
    Part(("the squares of {which}",), "x * x", lambda x, k: x * x),
    Part(("the doubles of {which}", "twice {which}"), "2 * x", lambda x, k: 2 * x),
    Part(("the sizes of {which}", "the absolute values of {which}"), "abs(x)", lambda x, k: abs(x)),
    Part(("the negatives of {which}",), "-x", lambda x, k: -x),
    Part(("the remainders of {which} by {k}",), "x % {k}", lambda x, k: x % k),
    Part(("the last digits of {which}",), "abs(x) % 10", lambda x, k: abs(x) % 10),
    Part(("{which}, each plus {k},",), "x + {k}", lambda x, k: x + k),
)
WHOLE = (
    Part(("the sum of {what}", "the total of {what}"), "sum({each})", lambda v, k: sum(v)),
    Part(("how many are {what} without repeats",), "len(set({each}))", lambda v, k: len(set(v))),
    Part(("the largest of {what}, or 0",), "max({each}, default=0)", lambda v, k: max(v, default=0)),
    Part(("the smallest of {what}, or 0",), "min({each}, default=0)", lambda v, k: min(v, default=0)),
    Part(("a list of {what}", "{what} as a list"), "[{each}]", lambda v, k: list(v)),
    Part(("{what}, sorted", "a sorted list of {what}"), "sorted({each})", lambda v, k: sorted(v)),
    Part(("{what}, the largest first",), "sorted({each}, reverse=True)", lambda v, k: sorted(v, reverse=True)),
    Part(("a set of {what}", "{what} as a set"), "set({each})", lambda v, k: set(v)),
    Part(("the product of {what}",), "math.prod({each})", lambda v, k: math.prod(v)),
)


def functions() -> Data:
    """Small Python functions, said in words, with checks: 8,000, and 300 of shapes that no training one has, simulated."""
    columns: dict[str, dict[str, Column]] = {}
    for part, held in (("train", False), ("held", True)):
        rng, rows = random.Random(f"functions {part}"), dict[str, tuple[str, str]]()
        while len(rows) < ROWS[part]:
            chain = [rng.randrange(len(parts)) for parts in (WHICH, WHAT, WHOLE)]
            if held_out(sha1(shape(chain).encode())) is held:
                prompt, text, check = written(chain, rng)
                rows.setdefault(text, (prompt, check))
        columns[part] = {
            "text": list(rows),
            "prompt": [prompt for prompt, _ in rows.values()],
            "check": [check for _, check in rows.values()],
        }
    about = simulated(
        "functions",
        split="by the shape of the code, without its numbers: held out where "
        f"the first 32 bits of its SHA-1 modulo 100 are below {HELD}",
        notes=(
            "functions are templated: passing here says that known parts are put together anew, not that programs are written",
        ),
    )
    return text_data(about, columns)


def shape(chain: Sequence[int]) -> str:
    """The code of a chain without its numbers: even, odd and multiples have one shape."""
    codes = (parts[i].code for parts, i in zip((WHICH, WHAT, WHOLE), chain, strict=True))
    return " ".join(re.sub(r"\{k\}|\d+", "k", code) for code in codes)


def written(chain: Sequence[int], rng: random.Random) -> tuple[str, str, str]:
    """(how a function begins, its docstring included; all of it; its checks, as `checked` writes them) of a chain of parts."""
    which, what, whole = WHICH[chain[0]], WHAT[chain[1]], WHOLE[chain[2]]
    first, second, name = rng.randint(2, 9), rng.randint(2, 9), rng.choice(NAMES)
    said = rng.choice(which.words).format(k=first, xs=name)
    said = rng.choice(what.words).format(k=second, which=said)
    said = rng.choice(whole.words).format(what=said).replace(",,", ",").removesuffix(",")
    each = f"{what.code.format(k=second)} for x in {name} if {which.code.format(k=first)}"
    comma = f"({each})" if "," in whole.code else each  # a generator beside another argument
    prompt = f'def f({name}):\n    """Return {said}."""\n'
    body = f"    return {whole.code.format(each=comma)}\n"
    if "math." in body:
        body = "    import math\n\n" + body

    def right(numbers: list[int]) -> Any:
        return whole.does([what.does(x, second) for x in numbers if which.does(x, first)], 0)

    inputs = [[rng.randint(-20, 20) for _ in range(rng.randint(4, 9))] for _ in range(CHECKS - 1)]
    return prompt, prompt + body, checked([(f"f({numbers!r})", told(right(numbers))) for numbers in [*inputs, []]])
