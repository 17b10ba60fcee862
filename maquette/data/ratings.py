"""Conversations, and what others' answers were rated, in the same symbols: behind an answer a quality, and behind that yes or no.

Knows which columns say what was rated; not what a quality means, nor who answers.
"""

from __future__ import annotations

import difflib
import random
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Conversing, Turns
from maquette.data.conversations import Conversations, Kept, answered, taught
from maquette.data.core import Data, Split

YES, NO = "<|yes|>", "<|no|>"


def marks(qualities: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the special symbols that ratings are written with."""
    return (*(f"<|{quality}|>" for quality in qualities), YES, NO)


class Rating(Conversing, Protocol):
    """A codec of conversations with symbols for ratings, by name."""

    special: dict[str, int]


class Rated(Conversations):
    """Rows of several conversations each, as `Conversations` has them; behind some stand the qualities of the answer, each with
    yes or no, which is all that is learnt of these (Thoppilan 2022, sec. 6.1: one model that answers and judges). They come in
    any order, so that whichever is asked first was asked first before.

    Args:
        split: rows with "source", "text", "other", and a column of "1" and "0" per quality, which is what "other" was rated.
        codec: has symbols for `marks(qualities)`.
        length: symbols of a row.
        qualities: what was rated.
    """

    def __init__(self, split: Split, codec: Rating, length: int, qualities: tuple[str, ...]):
        super().__init__(split, codec, length)
        self.qualities = qualities

    @cached_property
    def ratings(self) -> list[Kept]:
        """Every rating that fits, behind the answer that it is of."""
        columns: Any = self.columns
        talks = [answered(*row) for row in zip(columns["source"], columns["other"], strict=True)]
        special, found = self.codec.special, []  # type: ignore[attr-defined]
        for place, (turns, (symbols, said)) in enumerate(zip(talks, taught(self.codec, talks), strict=True)):
            order = random.Random(f"ratings {place}").sample(self.qualities, len(self.qualities))
            whole = list(symbols)
            for quality in order:
                whole += [special[f"<|{quality}|>"], special[YES if columns[quality][place] == "1" else NO]]
            if len(whole) <= self.length:
                found.append(Kept(turns, whole, [*[False] * len(said), *[False, True] * len(order)], place))
        return found

    @cached_property
    def written(self) -> list[Kept]:
        """Every conversation that fits, then the ratings."""
        return [*super().written, *self.ratings]

    @property
    def talks(self) -> list[Turns]:
        """The conversations that are answered, without the ratings."""
        return [each.turns for each in self.written[: len(self.written) - len(self.ratings)]]


def rating(data: Data, codec: Rating, length: int, qualities: tuple[str, ...]) -> Data:
    """The same data and facts, its rows conversations and ratings in symbols."""
    return Data(
        data.facts,
        lambda: {name: Rated(split, codec, length, qualities) for name, split in data.splits.items()},
    )


def judging(codec: Rating, code: Code, ends: Tensor, quality: str) -> tuple[Code, Tensor]:
    """Texts [n,T] with a quality behind what each ends with, and the place of it: what follows there is yes or no.

    Args:
        ends: symbols of each text, int64[n].

    Raises:
        ValueError: these symbols have none for it.
    """
    name = f"<|{quality}|>"
    if name not in codec.special:
        known = [each.strip("<|>") for each in codec.special if each not in (YES, NO)]
        near = difflib.get_close_matches(quality, known, 1, 0)
        raise ValueError(f"quality is {quality!r}, and this run rates none of that name; nearest is {next(iter(near), 'none')}")
    wider = torch.nn.functional.pad(code, (0, 1), value=IGNORE)
    place = torch.arange(wider.shape[1], device=code.device)
    wider = wider.masked_fill(place >= ends[:, None], IGNORE)
    return wider.masked_fill(place == ends[:, None], codec.special[name]), ends
