"""Whether an answer is right, by a rule and not by likeness: what a system that learns from its own answers is rewarded by.

Knows rows and texts, no model. A check is called with a row, its fields by name, and an answer; it gives 0 (wrong) .. 1 (right).
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maquette.data.errors import DataError
from maquette.data.executed import passes
from maquette.sandbox import Uncontained

Row = Mapping[str, Any]
OPERATORS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclass(frozen=True)
class Check:
    """A rule by its name.

    Args:
        right: a row and an answer -> 0 (wrong) .. 1 (right).
        answer: what of an answer is held to be said, once it is worked out: what votes are counted of.
        closes: what ends thinking, where something does.
        again: what parts tries, where all but the last are thinking.
        executes: it runs answers, walled in: only where that is allowed.
        needs: fields of a row that it judges by, besides the answer's own.
    """

    name: str
    right: Callable[[Row, str], float]
    answer: Callable[[str], str] = str.strip
    closes: str = ""
    again: str = ""
    executes: bool = False
    needs: tuple[str, ...] = ()


_STEP = re.compile(r"(-?\d+)([+*-])(\d+)=(-?\d+)")


def final(row: Row, reply: str) -> float:
    """Whether what stands behind the last "=" of an answer, or all of it where there is none, is the row's "answer", or what its
    own "text" ends in."""
    wanted = row["answer"] if "answer" in row else last(str(row["text"]))
    return float(last(reply) == str(wanted).strip())


def last(reply: str) -> str:
    """What stands behind the last "=" of an answer, or all of it."""
    return reply.rpartition("=")[2].strip()


def countdown(row: Row, reply: str) -> float:
    """Whether the last try of an answer makes the row's "target" of its "numbers", each of them used once, every step right.

    A try is steps, "3*8=24 24+5=29", each of which goes on from what the one before came to; tries are parted by ";".
    """
    steps = reply.rpartition(";")[2].strip().split(" ")
    left: Counter[int] = Counter(row["numbers"])
    before: int | None = None
    for step in steps:
        match = _STEP.fullmatch(step)
        if match is None:
            return 0.0
        a, b, made = int(match[1]), int(match[3]), int(match[4])
        if OPERATORS[match[2]](a, b) != made or (before is not None and a != before):
            return 0.0
        left.subtract([b] if before is not None else [a, b])
        before = made
    return float(before == row["target"] and not any(left.values()))


CHECKS = (
    Check("final", final, last, closes=" ="),
    Check("countdown", countdown, lambda reply: reply.rpartition(";")[2].strip(), again=";", needs=("numbers", "target")),
    Check("passes", passes, executes=True),
)


def check_of(name: str) -> Check:
    """A check by its name. Functions of others are not named here: a run's folder would then say what code is imported.

    Raises:
        ValueError: there is none.
    """
    found = next((check for check in CHECKS if check.name == name), None)
    if found is None:
        known = [check.name for check in CHECKS]
        near = difflib.get_close_matches(name, known, 1, 0)
        raise ValueError(f"check is {name!r}; allowed are {', '.join(known)}; nearest is {near[0]}")
    return found


def graded(check: Check, rows: Sequence[Row], replies: Sequence[str]) -> Tensor:
    """What a check gives each answer to its row, float32[n].

    Raises:
        DataError: it fails, or gives what is no number; which row and answer is said.
        Uncontained: it runs answers, and nothing here holds them in.
    """
    found = torch.empty(len(rows))
    for i, (row, reply) in enumerate(zip(rows, replies, strict=True)):
        try:
            value = float(check.right(row, reply))
        except Uncontained:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise DataError(f"check {check.name} failed on the answer {reply[:80]!r} to {row.get('source')!r}: {what}") from error
        if not math.isfinite(value):
            raise DataError(f"check {check.name} gives {value} for the answer {reply[:80]!r} to {row.get('source')!r}: no number")
        found[i] = value
    return found
