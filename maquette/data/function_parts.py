"""What built-in functions are made of: parts, each with the words for it, its code, and what it does. Simulated.

Of three subjects: a list of numbers, a list of words, the letters of a text. Knows no whole function.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


@dataclass(frozen=True)
class Part:
    """Words and code of a part, and what it does.

    words: "{k}" for its number, or "{l}" for its letter, "{of}" for what it is of; where they say what is true of some, {are},
    {have} and {s}, a verb's end. code: {k} or {l}, {x} for one of many, {xs} for all, {r} for a number at the end.
    does: what it is of, and its number or letter -> what it gives.
    own: words for what becomes of one, "its square"; gives: "number", "text" or "many", where it is another kind than before.
    begin, step: lines of a loop that makes the same, of which `result` is what is returned; code is "" where only a loop does.
    """

    words: tuple[str, ...]
    code: str
    does: Callable[[Any, Any], Any]
    own: tuple[str, ...] = ()
    gives: str = ""
    begin: str = ""
    step: str = ""
    result: str = "total"


@dataclass(frozen=True)
class Subject:
    """What a function is about, and the parts that are of it.

    names: of the argument; each: of one of many; those: words for some of them.
    """

    name: str
    names: tuple[str, ...]
    each: str
    those: tuple[str, ...]
    which: Sequence[Part]
    what: Sequence[Part]
    whole: Sequence[Part]


ALL = (
    Part(("the first {k} of {of}",), "{xs}[:{k}]", lambda v, k: v[:k]),
    Part(("{of} without the first {k}", "all but the first {k} of {of}"), "{xs}[{k}:]", lambda v, k: v[k:]),
    Part(("the last {k} of {of}",), "{xs}[-{k}:]", lambda v, k: v[-k:]),
    Part(("{of} without the last {k}", "all but the last {k} of {of}"), "{xs}[:-{k}]", lambda v, k: v[:-k]),
    Part(("every second one of {of}",), "{xs}[::2]", lambda v, k: v[::2]),
    Part(("{of} backwards", "the reverse of {of}"), "{xs}[::-1]", lambda v, k: v[::-1]),
    Part(("{of} put in order",), "sorted({xs})", lambda v, k: sorted(v)),
    Part(("{of} without repeats",), "dict.fromkeys({xs})", lambda v, k: list(dict.fromkeys(v))),
)

THAT = (  # of numbers
    Part(("{are} even",), "{x} % 2 == 0", lambda x, k: x % 2 == 0),
    Part(("{are} odd",), "{x} % 2 == 1", lambda x, k: x % 2 == 1),
    Part(("{are} above {k}", "exceed{s} {k}"), "{x} > {k}", lambda x, k: x > k),
    Part(("{are} below {k}", "{are} less than {k}"), "{x} < {k}", lambda x, k: x < k),
    Part(("{are} multiples of {k}", "{are} divisible by {k}"), "{x} % {k} == 0", lambda x, k: x % k == 0),
    Part(("{are} negative", "{are} below zero"), "{x} < 0", lambda x, k: x < 0),
    Part(("{are} not {k}", "differ{s} from {k}"), "{x} != {k}", lambda x, k: x != k),
    Part(("{have} two digits",), "10 <= abs({x}) < 100", lambda x, k: 10 <= abs(x) < 100),
    Part(("{are} within {k} of zero",), "abs({x}) <= {k}", lambda x, k: abs(x) <= k),
    Part(("leave{s} 1 when divided by {k}",), "{x} % {k} == 1", lambda x, k: x % k == 1),
)
BECOMES = (
    Part(("the squares of {of}",), "{x} * {x}", lambda x, k: x * x, ("its square",)),
    Part(("the doubles of {of}", "twice {of}"), "2 * {x}", lambda x, k: 2 * x, ("twice it", "its double")),
    Part(("the sizes of {of}", "the absolute values of {of}"), "abs({x})", lambda x, k: abs(x), ("its size",)),
    Part(("the negatives of {of}",), "-{x}", lambda x, k: -x, ("its negative",)),
    Part(("the remainders of {of} by {k}",), "{x} % {k}", lambda x, k: x % k, ("its remainder by {k}",)),
    Part(("the last digits of {of}",), "abs({x}) % 10", lambda x, k: abs(x) % 10, ("its last digit",)),
    Part(("{k} more than {of}",), "{x} + {k}", lambda x, k: x + k, ("{k} more than it", "it plus {k}")),
    Part(("{k} less than {of}",), "{x} - {k}", lambda x, k: x - k, ("{k} less than it", "it minus {k}")),
    Part(("{k} times {of}",), "{k} * {x}", lambda x, k: k * x, ("{k} times it",)),
    Part(("what {of} lack to {k}",), "{k} - {x}", lambda x, k: k - x, ("what it lacks to {k}",)),
    Part(("{of} divided by {k}, rounded down",), "{x} // {k}", lambda x, k: x // k, ("it divided by {k}, rounded down",)),
    Part(("{of}, at most {k} each",), "min({x}, {k})", lambda x, k: min(x, k), ("the smaller of it and {k}",)),
    Part(("{of}, at least {k} each",), "max({x}, {k})", lambda x, k: max(x, k), ("the larger of it and {k}",)),
    Part(("the distances of {of} from {k}",), "abs({x} - {k})", lambda x, k: abs(x - k), ("its distance from {k}",)),
    Part(("how many digits {of} have",), "len(str(abs({x})))", lambda x, k: len(str(abs(x))), ("the number of its digits",)),
)
MANY = (  # what is made of many, whatever they are
    Part(("a list of {of}", "{of} as a list"), "[{xs}]", lambda v, k: list(v), gives="many"),
    Part(("{of}, sorted", "a sorted list of {of}"), "sorted({xs})", lambda v, k: sorted(v), gives="many"),
    Part(("{of}, sorted downwards",), "sorted({xs}, reverse=True)", lambda v, k: sorted(v, reverse=True), gives="many"),
    Part(("a set of {of}", "{of} as a set"), "set({xs})", lambda v, k: set(v), gives="many"),
    Part(
        ("how many are {of}", "the number of {of}"), "len([{xs}])", lambda v, k: len(v),
        gives="number", begin="total = 0", step="total += 1",
    ),
    Part(("how many different ones are {of}",), "len(set({xs}))", lambda v, k: len(set(v)), gives="number"),
    Part(("how often each of {of} comes",), "dict(Counter({xs}))", lambda v, k: dict(Counter(v)), gives="many"),
)  # fmt: skip
OF_NUMBERS = (
    *MANY,
    Part(
        ("the sum of {of}", "the total of {of}"), "sum({xs})", lambda v, k: sum(v),
        gives="number", begin="total = 0", step="total += {x}",
    ),
    Part(
        ("the product of {of}",), "math.prod({xs})", lambda v, k: math.prod(v),
        gives="number", begin="total = 1", step="total *= {x}",
    ),
    Part(("the largest of {of}, or 0",), "max({xs}, default=0)", lambda v, k: max(v, default=0), gives="number"),
    Part(("the smallest of {of}, or 0",), "min({xs}, default=0)", lambda v, k: min(v, default=0), gives="number"),
    Part(("the first of {of}, or 0",), "next(iter({xs}), 0)", lambda v, k: next(iter(v), 0), gives="number"),
    Part(("the running totals of {of}",), "list(accumulate({xs}))", lambda v, k: list(accumulate(v)), gives="many"),
    Part(
        ("the sum of {of} up to where it exceeds {k}",), "", lambda v, k: next((t for t in accumulate(v) if t > k), sum(v)),
        gives="number", begin="total = 0", step="total += {x}\nif total > {k}:\n    break",
    ),
    Part(
        ("the longest run that {of} rise in",), "", lambda v, k: _rise(v),
        gives="number", begin="best = run = 0\nlast = None",
        step="y = {x}\nrun = run + 1 if last is not None and y > last else 1\nlast, best = y, max(best, run)", result="best",
    ),
)  # fmt: skip


def _longest(v: Sequence[str], k: Any) -> str:
    return max(v, key=len, default="")


LONG = (  # of words
    Part(("{are} longer than {k}",), "len({x}) > {k}", lambda x, k: len(x) > k),
    Part(("{are} shorter than {k}",), "len({x}) < {k}", lambda x, k: len(x) < k),
    Part(("start{s} with {l}", "begin{s} with {l}"), "{x}.startswith({l})", lambda x, k: x.startswith(k)),
    Part(("end{s} with {l}",), "{x}.endswith({l})", lambda x, k: x.endswith(k)),
    Part(("contain{s} {l}", "{have} {l} in"), "{l} in {x}", lambda x, k: k in x),
    Part(("{have} no {l} in",), "{l} not in {x}", lambda x, k: k not in x),
    Part(("{have} letters in order",), "list({x}) == sorted({x})", lambda x, k: list(x) == sorted(x)),
)
WRITTEN = (
    Part(("{of} in capitals",), "{x}.upper()", lambda x, k: x.upper(), ("it in capitals",)),
    Part(("{of}, spelt backwards",), "{x}[::-1]", lambda x, k: x[::-1], ("it spelt backwards",)),
    Part(("the first {k} letters of {of}",), "{x}[:{k}]", lambda x, k: x[:k], ("its first {k} letters",)),
    Part(("the last {k} letters of {of}",), "{x}[-{k}:]", lambda x, k: x[-k:], ("its last {k} letters",)),
    Part(("{of}, written {k} times",), "{x} * {k}", lambda x, k: x * k, ("it written {k} times",)),
    Part(("{of} without {l}",), "{x}.replace({l}, '')", lambda x, k: x.replace(k, ""), ("it without {l}",)),
    Part(("{of} with {l} behind",), "{x} + {l}", lambda x, k: x + k, ("it with {l} behind",)),
    Part(("the lengths of {of}", "how long {of} are"), "len({x})", lambda x, k: len(x), ("its length",), gives="number"),
    Part(("how often {l} is in {of}",), "{x}.count({l})", lambda x, k: x.count(k), ("how often {l} is in it",), gives="number"),
)  # fmt: skip
OF_WORDS = (
    *MANY,
    Part(("{of}, joined by {l}",), "{l}.join({xs})", lambda v, k: k.join(v), gives="text"),
    Part(("the longest of {of}, or ''",), "max({xs}, key=len, default='')", _longest, gives="text"),
    Part(("the first of {of}, or ''",), "next(iter({xs}), '')", lambda v, k: next(iter(v), ""), gives="text"),
    Part(
        ("all of {of} in one",), "''.join({xs})", lambda v, k: "".join(v), gives="text", begin="total = ''", step="total += {x}"
    ),
)  # fmt: skip

KINDS = (  # of letters
    Part(("{are} vowels",), "{x} in 'aeiou'", lambda x, k: x in "aeiou"),
    Part(("{are} no vowels", "{are} consonants"), "{x} not in 'aeiou'", lambda x, k: x not in "aeiou"),
    Part(("come{s} before {l}",), "{x} < {l}", lambda x, k: x < k),
    Part(("come{s} after {l}",), "{x} > {l}", lambda x, k: x > k),
    Part(("{are} not {l}", "differ{s} from {l}"), "{x} != {l}", lambda x, k: x != k),
)
SPELT = (
    Part(("{of} in capitals",), "{x}.upper()", lambda x, k: x.upper(), ("it in capitals",)),
    Part(("{of}, each {k} times",), "{x} * {k}", lambda x, k: x * k, ("it {k} times",)),
    Part(("{of}, each with {l} behind",), "{x} + {l}", lambda x, k: x + k, ("it with {l} behind",)),
    Part(("the codes of {of}",), "ord({x}[0])", lambda x, k: ord(x[0]), ("its code",), gives="number"),
)
THEN = (  # of a number at the end
    Part(("{of}, plus {k}",), "{r} + {k}", lambda r, k: r + k),
    Part(("{k} times {of}",), "{k} * ({r})", lambda r, k: k * r),
    Part(("whether {of} is above {k}",), "{r} > {k}", lambda r, k: r > k),
    Part(("whether {of} is even",), "({r}) % 2 == 0", lambda r, k: r % 2 == 0),
    Part(("{of}, but at most {k}",), "min({r}, {k})", lambda r, k: min(r, k)),
    Part(("{of}, or {k} where that is negative",), "{r} if {r} >= 0 else {k}", lambda r, k: r if r >= 0 else k),
    Part(
        ("half of {of} where that is even, else {k}",), "{r} // 2 if {r} % 2 == 0 else {k}", lambda r, k: k if r % 2 else r // 2
    ),
)

NUMBERS = Subject("numbers", ("xs", "values", "numbers", "items"), "x", ("numbers", "ones"), THAT, BECOMES, OF_NUMBERS)
WORDS = Subject("words", ("words", "names", "lines"), "w", ("words", "ones"), LONG, WRITTEN, OF_WORDS)
LETTERS = Subject("letters", ("text", "line", "s"), "c", ("letters", "characters"), KINDS, SPELT, OF_WORDS)
SUBJECTS = (NUMBERS, WORDS, LETTERS)


def _rise(values: Sequence[int]) -> int:
    """The most neighbours in a row each of which is above the one before, itself counted."""
    best = run = 0
    for i, value in enumerate(values):
        run = run + 1 if i and value > values[i - 1] else 1
        best = max(best, run)
    return best
