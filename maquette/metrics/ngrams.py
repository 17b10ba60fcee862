"""Texts continued as often as their last pieces were continued so in other texts: what counting alone comes to.

Knows texts; no metric and no model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

ORDER = 6  # pieces, the one that is drawn among them
_PIECES = re.compile(r"\n *| ?\w+|\s+|[^\w\s]")


class NGrams:
    """Counts of pieces (words, marks, line breaks with the white space behind) behind up to five others, smoothed.

    How much a longer context is trusted follows from how many different pieces came behind it (Witten & Bell 1991; Chen & Goodman
    1998, eq. 17): N / (N + T) for N times, T pieces.

    Args:
        texts: what is counted.
        order: pieces of an n-gram.
    """

    def __init__(self, texts: Sequence[str], order: int = ORDER):
        self.pieces = ["", *dict.fromkeys(piece for text in texts for piece in _PIECES.findall(text))]  # "" ends a text
        self.number = {piece: i for i, piece in enumerate(self.pieces)}
        line = [0] * order  # what no text is continued across
        for text in texts:
            line += [*(self.number[piece] for piece in _PIECES.findall(text)), *[0] * order]
        symbols = np.array(line, dtype=np.int32)
        ends = np.flatnonzero(symbols != 0)
        place = np.union1d(ends, ends + 1)  # what is ever drawn: a piece, or the end right behind one
        before = [symbols[place - back] for back in range(1, order)]
        by = np.lexsort(before[::-1])  # the nearest piece counts first
        self.drawn, self.before = symbols[place][by], [column[by] for column in before]
        self.different = lru_cache(1 << 16)(lambda low, high: len(np.unique(self.drawn[low:high])))

    def next(self, context: Sequence[int], rng: random.Random) -> int:
        """One piece drawn behind others, by number."""
        ranges = [(0, len(self.drawn))]
        for column, number in zip(self.before, reversed(context), strict=False):
            low, high = ranges[-1]
            asked = np.array([number, number + 1], dtype=column.dtype)  # of another type, the whole column would be copied
            found = low + np.searchsorted(column[low:high], asked)
            if found[0] == found[1]:
                break
            ranges.append((int(found[0]), int(found[1])))
        for low, high in reversed(ranges):
            count = high - low
            if (low == 0 and high == len(self.drawn)) or rng.random() * (count + self.different(low, high)) < count:
                break
        return int(self.drawn[rng.randrange(low, high)])

    def continued(self, prompt: str, rng: random.Random, most: int) -> str:
        """What is drawn behind a prompt, up to the end of a text or so many pieces."""
        context = [0, *(self.number.get(piece, -1) for piece in _PIECES.findall(prompt))]
        written: list[str] = []
        while len(written) < most:
            drawn = self.next(context, rng)
            if not drawn:
                break
            context.append(drawn)
            written.append(self.pieces[drawn])
        return "".join(written)
