"""Built-in questions whose answers are worked out in steps and checked by rule: simulated. Knows arithmetic, no model."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement, permutations, product

from maquette.data.checks import OPERATORS
from maquette.data.core import Column, Data, simulated, text_data
from maquette.data.shares import HELD, held_out, sha1

ROWS = {"train": 10_000, "held": 1_000}
DIGITS = 3
LARGEST, TARGETS, TRIES = 20, 60, 4  # of the numbers of a countdown; of its target; most tries that are shown
HIGHEST = 99  # that a try comes to on its way
Row = dict[str, object]


def sums() -> Data:
    """Sums of two numbers of three digits, worked out digit by digit, "7+6=13 1+4+8=13 1+3+5=9 =933": 10,000, simulated."""
    return _asked("sums", "final", _sums(), "by the two numbers")


def countdown() -> Data:
    """A number to be made of three others, by tries, "3+8=11 11*5=55; 3*8=24 24+5=29": 10,000 questions, simulated."""
    return _asked("countdown", "countdown", _countdowns(), "by the numbers and the target")


def _asked(name: str, check: str, questions: Iterable[Row], split: str) -> Data:
    """As many questions of a kind as are wanted, held out by what they are."""
    parts: dict[str, dict[str, Row]] = {"train": {}, "held": {}}
    for row in questions:
        source = str(row["source"])
        part = "held" if held_out(sha1(source.encode())) else "train"
        if len(parts[part]) < ROWS[part]:
            parts[part].setdefault(source, row)
        elif all(len(parts[one]) == most for one, most in ROWS.items()):
            break
    columns: dict[str, dict[str, Column]] = {
        part: {field: [row[field] for row in rows.values()] for field in next(iter(rows.values()))}
        for part, rows in parts.items()
    }
    about = simulated(
        name,
        split=f"{split}: held out where the first 32 bits of the question's SHA-1 modulo 100 are below {HELD}",
        notes=("made by a generator: whoever answers these does no other arithmetic",),
        check=check,
    )
    return text_data(about, columns)


def _sums() -> Iterator[Row]:
    rng = random.Random("sums")
    while True:
        a, b = (rng.randrange(10 ** (DIGITS - 1), 10**DIGITS) for _ in range(2))
        steps, carry = [], 0
        for x, y in zip(reversed(str(a)), reversed(str(b)), strict=True):
            made = carry + int(x) + int(y)
            steps.append(f"{'1+' * carry}{x}+{y}={made}")
            carry = made // 10
        yield {"source": f"{a}+{b}", "text": f"{' '.join(steps)} ={a + b}", "answer": str(a + b)}


def _countdowns() -> Iterator[Row]:
    """Every question that has an answer, in no order; the tries shown before the last come to something else."""
    rng, found = random.Random("countdown"), []
    for numbers in combinations_with_replacement(range(1, LARGEST + 1), 3):
        tries = _tries(numbers)
        for target in sorted({value for value in tries.values() if 0 < value <= TARGETS}):
            found.append((numbers, target, tries))
    rng.shuffle(found)
    for numbers, target, tries in found:
        right = [trial for trial, value in tries.items() if value == target]
        wrong = [trial for trial, value in tries.items() if value != target]
        shown = [*rng.sample(wrong, min(len(wrong), rng.randrange(TRIES))), rng.choice(right)]
        source = f"{' '.join(map(str, numbers))} = {target}"
        yield {"source": source, "text": "; ".join(shown), "numbers": list(numbers), "target": target}


def _tries(numbers: tuple[int, ...]) -> dict[str, int]:
    """Every way to put three numbers together, one after the other, and what it comes to."""
    found: dict[str, int] = {}
    for (a, b, c), (one, two) in product(dict.fromkeys(permutations(numbers)), product(OPERATORS, repeat=2)):
        first = OPERATORS[one](a, b)
        second = OPERATORS[two](first, c)
        if 0 <= first <= HIGHEST and 0 <= second <= HIGHEST:
            found[f"{a}{one}{b}={first} {first}{two}{c}={second}"] = second
    return found
