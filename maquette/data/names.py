"""Pictures of named things in two splits: what looks alike on one side, and held out only what is put together from known words.

Knows names and groups; not what the pictures are of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from maquette.data.shares import sha1

_WORD = re.compile(r"[a-z]+|[0-9]")  # of "braille pattern dots-134": braille, pattern, dots, 1, 3, 4


def words(name: str) -> set[str]:
    """The words and single digits of a name in lower case."""
    return set(_WORD.findall(name))


def joined(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` things the lowest one that a chain of pairs leads to: equal numbers are one group."""
    above = list(range(count))

    def top(i: int) -> int:
        while above[i] != i:
            above[i] = above[above[i]]
            i = above[i]
        return i

    for pair in pairs:
        low, high = sorted(map(top, pair))
        above[high] = low
    return [top(i) for i in range(count)]


def held_out(names: Sequence[str], groups: Sequence[int], share: int) -> list[bool]:
    """Which things are held out: whole groups, drawn by the SHA-1 of their first name, whose every word a training name has.

    Args:
        names: of the things, in lower case.
        groups: a number per thing; the same number is the same side.
        share: of the groups drawn, in percent; fewer are held out.
    """
    together: dict[int, list[str]] = {}
    for name, group in zip(names, groups, strict=True):
        together.setdefault(group, []).append(name)
    drawn = {g for g, some in together.items() if int.from_bytes(sha1(min(some).encode())[:4], "big") % 100 < share}
    known = {word for group, some in together.items() if group not in drawn for name in some for word in words(name)}
    held = {group for group in drawn if all(words(name) <= known for name in together[group])}
    return [group in held for group in groups]
