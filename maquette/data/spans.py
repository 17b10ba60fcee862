"""Texts of which spans are hidden, and what was hidden, as pairs: T5's way to learn from texts alone. Knows words, no symbols."""

from __future__ import annotations

import random

from maquette.data.shares import sha1

SENTINELS = tuple(f"<extra_id_{i}>" for i in range(16))
SHARE, SPAN = 0.15, 3.0  # of the words that are hidden, and how many lie together on average (Raffel 2020, sec. 3.3.4)
WORDS = 40  # of a piece of a text


def pieces(texts: list[str]) -> list[str]:
    """Runs of about WORDS words of each text, white space between words as one space."""
    found = []
    for text in texts:
        words = text.split()
        found += [" ".join(words[at : at + WORDS]) for at in range(0, len(words) - WORDS // 2, WORDS)]
    return found


def hidden(text: str) -> tuple[str, str]:
    """(what is left of a text, a sentinel in the place of each span; the sentinels, each before its span, and a last one).

    Which spans follows from the text alone.
    """
    words, rng = text.split(), random.Random(sha1(text.encode()))
    count = max(1, min(len(SENTINELS) - 1, round(len(words) * SHARE / SPAN)))
    away = max(count, round(len(words) * SHARE))
    lengths = _parts(away, count, 1, rng)
    between = _parts(len(words) - away, count + 1, 0, rng)
    left, gone, at = [], [], 0
    for sentinel, kept, length in zip(SENTINELS, between, lengths, strict=False):
        left += [*words[at : at + kept], sentinel]
        gone += [sentinel, *words[at + kept : at + kept + length]]
        at += kept + length
    return " ".join([*left, *words[at:]]), " ".join([*gone, SENTINELS[count]])


def _parts(whole: int, count: int, least: int, rng: random.Random) -> list[int]:
    """`whole` cut at random into `count` whole numbers of at least `least`."""
    spare = whole - least * count
    cuts = sorted(rng.randint(0, spare) for _ in range(count - 1))
    return [least + b - a for a, b in zip([0, *cuts], [*cuts, spare], strict=True)]
