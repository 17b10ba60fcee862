"""Pieces of words learned from texts, the same ones at every run: by a unigram model, and by merging. Knows no tokenizer's ids.

The trainers that come with `tokenizers` give others each time, but for byte pairs; ranks, and a run killed and begun again, must
agree.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

# Pieces stay within a word with the space before it, a run of up to 3 digits, a run of marks, or a line break with the
# indentation after it (after GPT-4's pattern; the indentation is what code gains by).
PATTERN = r" ?[\p{L}_]+|\d{1,3}| ?[^\s\p{L}_\d]+|\s*\n\s*(?=\S|$)|\s+"
_WORDS = re.compile(r" ?[^\W\d]+|\d{1,3}| ?[^\s\w]+|\s*\n\s*(?=\S|$)|\s+")  # the same but for marks that join letters
LONGEST = 16  # characters of a piece
SEEDS = 8  # times as many pieces are begun with as are wanted
KEPT = 0.75  # of the pieces, after each round
MARK = "\u2581"  # stands before the first letter of a word while pieces are merged


@dataclass(frozen=True)
class _Arcs:
    """Every place in some words where a piece may stand: int64[A] each, and the words' lengths int64[W]."""

    word: np.ndarray
    start: np.ndarray
    end: np.ndarray
    piece: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, words: Sequence[str], index: dict[str, int]) -> _Arcs:
        found = [
            (w, i, j, index[word[i:j]])
            for w, word in enumerate(words)
            for i in range(len(word))
            for j in range(i + 1, len(word) + 1)
            if word[i:j] in index
        ]
        table = np.array(found, dtype=np.int64).reshape(-1, 4)
        word, start, end, piece = table[np.argsort(table[:, 2], kind="stable")].T
        return cls(word, start, end, piece, np.array([len(word) for word in words]))

    def where(self, these: np.ndarray) -> _Arcs:
        """Only these arcs: bool[A]."""
        return _Arcs(self.word[these], self.start[these], self.end[these], self.piece[these], self.length)


def unigram(texts: Iterable[str], size: int) -> list[tuple[str, float]]:
    """At most `size` pieces with their log-probabilities, the likeliest first (Kudo 2018, sec. 3.2).

    Expectation-maximisation, and after each round a quarter of the pieces gone: those without which the likelihood falls least.
    """
    count = Counter(part for text in texts for part in _parts(text))
    words = sorted(count)
    times = np.array([count[word] for word in words], dtype=np.float64)
    pieces = _seeds(count, SEEDS * size)
    if not pieces:
        return []
    index = {piece: i for i, piece in enumerate(pieces)}
    single = np.array([len(piece) == 1 for piece in pieces])
    arcs, inner = _Arcs.of(words, index), _Arcs.of(pieces, index)
    inner = inner.where(inner.end - inner.start < inner.length[inner.word])  # a piece is no way to do without itself
    score, kept = np.log(np.full(len(pieces), 1 / len(pieces))), np.ones(len(pieces), bool)
    while True:
        for _ in range(2):
            expected = _expected(arcs, times, score, len(pieces))
            kept &= single | (expected >= 0.5)
            arcs = arcs.where(kept[arcs.piece])
            score = _scores(np.where(kept, np.maximum(expected, 0.5), 0.0))
        most = max(size, int(KEPT * kept.sum()))
        if kept.sum() <= 1.1 * size or (kept & ~single).sum() == 0 or most >= kept.sum():
            break
        inner = inner.where(kept[inner.piece] & kept[inner.word])
        loss = np.where(kept, expected, 0) * (score - np.where(kept & ~single, _otherwise(inner, score), 0))
        order = np.argsort(-np.where(single, np.inf, np.where(kept, loss, -np.inf)), kind="stable")
        kept[order[max(most, int((kept & single).sum())) :]] = False
        arcs = arcs.where(kept[arcs.piece])
    best = np.argsort(-np.where(kept, score, -np.inf), kind="stable")[: min(size, int(kept.sum()))]
    return [(pieces[i], float(score[i])) for i in best]


def _parts(text: str) -> list[str]:
    """The words of a text, long ones cut."""
    words = _WORDS.findall(text)
    return [word[i : i + LONGEST] for word in words for i in range(0, len(word), LONGEST)]


def _seeds(count: Counter[str], most: int) -> list[str]:
    """Every character, and the strings within words that cover most text."""
    covers: Counter[str] = Counter()
    for word, times in count.items():
        for i in range(len(word)):
            for j in range(i + 1, len(word) + 1):
                covers[word[i:j]] += times
    longer = [(-times * len(piece), piece) for piece, times in covers.items() if times > 1 and len(piece) > 1]
    return sorted(piece for piece in covers if len(piece) == 1) + [piece for _, piece in sorted(longer)[:most]]


def _expected(arcs: _Arcs, times: np.ndarray, score: np.ndarray, pieces: int) -> np.ndarray:
    """How often each piece is used, over every way to cut every word: float64[pieces], by forward and backward sums."""
    words, longest = len(arcs.length), int(arcs.length.max())
    chance = np.exp(score)[arcs.piece]
    before, after = np.zeros((longest + 1, words)), np.zeros((longest + 1, words))
    before[0], after[arcs.length, np.arange(words)] = 1, 1
    ends = np.searchsorted(arcs.end, np.arange(longest + 2))
    for end in range(1, longest + 1):
        some = slice(ends[end], ends[end + 1])
        came = before[arcs.start[some], arcs.word[some]] * chance[some]
        before[end] = np.bincount(arcs.word[some], came, words)
    by_start = np.argsort(arcs.start, kind="stable")
    starts = np.searchsorted(arcs.start[by_start], np.arange(longest + 1))
    for start in range(longest - 1, -1, -1):
        some_of = by_start[starts[start] : starts[start + 1]]
        goes = after[arcs.end[some_of], arcs.word[some_of]] * chance[some_of]
        after[start] += np.bincount(arcs.word[some_of], goes, words)
    weight = times / after[0]
    used = before[arcs.start, arcs.word] * chance * after[arcs.end, arcs.word] * weight[arcs.word]
    return np.bincount(arcs.piece, used, pieces)


def _scores(used: np.ndarray) -> np.ndarray:
    """Log-probabilities under a sparse prior: digamma in place of the logarithm, which makes the rare rarer."""
    total = torch.digamma(torch.tensor(used.sum(), dtype=torch.float64))
    found = torch.digamma(torch.from_numpy(np.maximum(used, 1e-3))) - total
    return found.clamp(min=-100).numpy()  # of those not kept: whatever, but finite


def _otherwise(inner: _Arcs, score: np.ndarray) -> np.ndarray:
    """Log-probability of the best way to write each piece without it: float64[pieces]."""
    words, longest = len(inner.length), int(inner.length.max())
    best = np.full((longest + 1, words), -np.inf)
    best[0] = 0
    ends = np.searchsorted(inner.end, np.arange(longest + 2))
    for end in range(1, longest + 1):
        some = slice(ends[end], ends[end + 1])
        np.maximum.at(best[end], inner.word[some], best[inner.start[some], inner.word[some]] + score[inner.piece[some]])
    return best[inner.length, np.arange(words)]


def wordpieces(texts: Iterable[str], size: int, normalizer: normalizers.Normalizer) -> list[str]:
    """At most `size` pieces, those within a word with ## before them (Wu 2016): every character, then what merging finds."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizer, normalizers.Replace(MARK, "")])
    marked = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), marked])
    trainer = trainers.BpeTrainer(vocab_size=2 * size, limit_alphabet=max(1, size // 4), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    vocab = tokenizer.get_vocab()
    found = sorted(vocab, key=lambda piece: vocab[piece])
    letters = [piece for piece in found if len(piece) == 1 and piece != MARK]
    merged = [piece[1:] if piece.startswith(MARK) else f"##{piece}" for piece in found if len(piece) > 1]
    return list(dict.fromkeys([*letters, *(f"##{one}" for one in letters), *merged]))[:size]
