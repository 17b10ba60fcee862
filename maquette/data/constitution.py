"""Principles that answers are held to: how a critique, a revision and a choice of two are asked for, and rows to be asked anew.

Knows conversations and a file of principles, a line each; not what a principle means.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from maquette.contracts import Batch, Conversing, Turns
from maquette.data.conversations import Conversations, Kept
from maquette.data.core import Data, Split, noted, recalled
from maquette.data.errors import DataError

LONGEST = 300  # characters of a principle
CRITICISE = "Question: {asked}\nAnswer: {text}\nCriticise the answer by this: {principle}"
REVISE = "Revise the answer."
COMPARE = "Question: {asked}\n(A) {one}\n(B) {two}\nWhich answer is better by this: {principle}"


def critiquing(asked: str, text: str, principle: str) -> Turns:
    """The demand to criticise an answer (Bai 2022, sec. 3.1)."""
    return [{"role": "user", "content": CRITICISE.format(asked=asked, text=text, principle=principle)}]


def revising(turns: Turns, critique: str) -> Turns:
    """The same with a critique, and the demand to revise the answer."""
    return [*turns, {"role": "assistant", "content": critique}, {"role": "user", "content": REVISE}]


def comparing(asked: str, one: str, two: str, principle: str) -> Turns:
    """The demand to choose one of two answers, to be answered by a letter (Bai 2022, sec. 4.1)."""
    return [{"role": "user", "content": COMPARE.format(asked=asked, one=one, two=two, principle=principle)}]


def held_to(data: Data, path: str = "") -> Data:
    """The same data, its answers held to the principles of a file; without one to the data's own.

    A run that is opened again has its principles by heart.

    Raises:
        DataError: there is no such file, or what is in it are no principles; or neither file nor data have any.
    """
    if recalled() is not None:
        return data
    if path:
        found = principles_of(Path(path).expanduser())
        return noted(Data(replace(data.facts, principles=found), lambda: data.splits), f"held to {path}: {' '.join(found)}")
    if not data.facts.principles:
        raise DataError(
            f"data {data.facts.name!r} say no principles that answers be held to; give a text file with one on each line: "
            "--principles FILE. `principles` has some"
        )
    return data


def principles_of(path: Path) -> tuple[str, ...]:
    """The principles of a text file, one on each line; empty lines and those that begin with # are passed over.

    Raises:
        DataError: it is none, has none, or one is too long.
    """
    if not path.is_file():
        near = sorted(each.name for each in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        beside = f" Beside it are {', '.join(near[:5])}" if near else ""
        raise DataError(f"there is no file of principles at {path}.{beside}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from None
    found = {line: number for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
    if not found:
        raise DataError(f"{path} has no principle: write one on each line, such as 'An answer must not be rude.'")
    for line, number in found.items():
        if len(line) > LONGEST:
            raise DataError(
                f"line {number} of {path} has {len(line)} characters; a principle has 1 .. {LONGEST}: shorten it, or cut it into "
                "several lines"
            )
    return tuple(found)


class Principled(Conversations):
    """Rows of several conversations each, as `Conversations` has them; and "asked", a list of the questions in each row: what the
    data call "asked", or turns up to a first answer."""

    def rows(self, index: Tensor) -> Batch:
        """The rows at int64[B] positions."""
        asked = [[self.question(self.written[i]) for i in self.packs[row]] for row in index.tolist()]
        return {**super().rows(index), "asked": asked}

    def question(self, kept: Kept) -> Turns:
        """What a conversation is about, to be answered anew."""
        columns: Any = self.columns
        return [{"role": "user", "content": columns["asked"][kept.place]}] if "asked" in columns else beginning(kept.turns)


def beginning(turns: Turns) -> Turns:
    """A conversation up to its first answer."""
    return turns[: next(i for i, turn in enumerate(turns) if turn["role"] == "assistant")]


def principled(data: Data, codec: Conversing, length: int) -> Data:
    """The same data and facts, its rows conversations in symbols whose questions may be answered anew."""

    def made() -> dict[str, Split]:
        return {name: Principled(split, codec, length, packed=name == "train") for name, split in data.splits.items()}

    return Data(data.facts, made)


def drawn(constitution: tuple[str, ...], chance: Tensor, rounds: int) -> list[list[str]]:
    """Principles for each of some answers, different ones as long as there are: by float[n,P] in 0..1, n lists of `rounds`."""
    order = chance.argsort(1)
    return [[constitution[row[i % len(row)]] for i in range(rounds)] for row in order.tolist()]
