"""How near texts are by the rare words they share (Robertson 1994): what finds without having learnt. Knows texts only."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SATURATION, LENGTH = 1.2, 0.75  # k1 and b: how soon a word said again adds nothing; how much long texts are held back


class BM25:
    """Texts to be found. Words within names count by themselves (`read_csv`, `readCsv`), none is stemmed.

    Args:
        texts: those to be found.
        besides: more of their kind, which say how rare a word is and how long a text.
    """

    def __init__(self, texts: Sequence[str], besides: Sequence[str] = ()):
        from sklearn.feature_extraction.text import CountVectorizer

        self.counter = CountVectorizer(analyzer=words_of)
        counts = self.counter.fit_transform([*texts, *besides]).astype(np.float64).tocoo()
        long, have = np.asarray(counts.sum(1)).ravel(), np.bincount(counts.col, minlength=counts.shape[1])
        rare = np.log1p((counts.shape[0] - have + 0.5) / (have + 0.5))
        worth = SATURATION * (1 - LENGTH + LENGTH * (long / long.mean())[counts.row])
        counts.data = rare[counts.col] * counts.data * (SATURATION + 1) / (counts.data + worth)
        self.weights = counts.tocsr()[: len(texts)].T

    def near(self, asked: Sequence[str]) -> Tensor:
        """float64[n,N]: how near each query is to each text."""
        return torch.from_numpy((self.counter.transform(asked) @ self.weights).toarray())


def words_of(text: str) -> list[str]:
    """Words in small letters, those within names too: "read_csv(HTTPError)" -> read, csv, http, error."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+", text)]


def joined(*scores: Tensor) -> Tensor:
    """Scores of unlike kinds [...,N] as one: their sum, each brought to deviation 1 over what is to be found."""
    return torch.stack(
        [each / each.std(-1, correction=0, keepdim=True).clamp(min=1e-9) for each in map(Tensor.double, scores)]
    ).sum(0)
