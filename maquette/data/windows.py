"""Documents as windows of one packed token stream, for models of sequences. Knows what a tokenizer does, not which it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from maquette.contracts import Batch
from maquette.data.core import Data, Split
from maquette.data.errors import DataError

CHUNK = 1 << 22  # characters tokenised at a time: their Python lists of numbers stay near 100 MB


class Tokenizer(Protocol):
    """The part of a text codec that this file needs. `bos` is the symbol that begins a document, `ends` those that end one."""

    bos: int
    ends: tuple[int, ...]

    def tokenize(self, texts: list[str]) -> list[list[int]]: ...


class Windows(Split):
    """Consecutive windows {"code": int64[B,length]} over: bos, document, bos, document ... Tokenised on first use.

    Where `bos` ends no document, the first of the symbols that do stands behind each.

    A window may span documents; the tokens after the last whole window are in no row, but are in `tokens`.

    Args:
        documents: a split with a column "text".
        codec: tokenises; must have learnt its merges before the first row is asked for.
        length: tokens per window.

    Raises:
        DataError: no text, a length below 1, or (on first use) fewer tokens than one window.
    """

    def __init__(self, documents: Split, codec: Tokenizer | Any, length: int):
        super().__init__(documents.columns)
        if "text" not in documents.columns:
            raise DataError(f"windows need a column 'text'; these rows have {', '.join(documents.columns)}")
        if length < 1:
            raise DataError(f"a window of {length} tokens is too short; at least 1 is needed")
        self.codec, self.length = codec, length

    @property
    def documents(self) -> Sequence[str]:
        """The raw texts, in order."""
        return self.columns["text"]  # type: ignore[return-value]

    @cached_property
    def bytes(self) -> int:
        """UTF-8 bytes of all documents: what bits per byte divide by."""
        return sum(len(text.encode()) for text in self.documents)

    @cached_property
    def tokens(self) -> Tensor:
        """The whole stream: int32[N]."""
        parts, bos = [], self.codec.bos
        tail = self.codec.ends[:1] if bos not in self.codec.ends else ()
        for texts in _chunks(self.documents):
            for ids in self.codec.tokenize(texts):
                parts.append(np.fromiter((bos, *ids, *tail), np.int32, len(ids) + 1 + len(tail)))
        return torch.from_numpy(np.concatenate(parts))

    @cached_property
    def windows(self) -> Tensor:
        """int32[windows, length], a view of the stream."""
        count = len(self.tokens) // self.length
        if count == 0:
            raise DataError(
                f"a split has {len(self.tokens)} tokens, fewer than one window of {self.length}; "
                f"use more text, or a shorter window: --context {max(1, len(self.tokens))}"
            )
        return self.tokens[: count * self.length].view(count, self.length)

    def __len__(self) -> int:
        return len(self.windows)

    def rows(self, index: Tensor) -> Batch:
        """The windows at int64[B] positions."""
        return {"code": self.windows[index].long()}


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in lists of about CHUNK characters."""
    some: list[str] = []
    held = 0
    for text in texts:
        some.append(text)
        held += len(text)
        if held >= CHUNK:
            yield some
            some, held = [], 0
    if some:
        yield some


def coded(data: Data, codec: Tokenizer | Any, length: int) -> Data:
    """The same data and facts with its documents as windows of tokens; each split keeps its raw `.documents`."""
    return Data(data.facts, lambda: {name: Windows(split, codec, length) for name, split in data.splits.items()})
