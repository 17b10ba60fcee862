"""Data as every verb sees it: two splits of rows, and the facts a run records. Knows no source and no model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from dataclasses import field as fresh
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from maquette.contracts import Batch

Column = Tensor | Sequence[Any]


@dataclass(frozen=True)
class Facts:
    """What a recipe may know of its data without reading a row, and what run.json records of it.

    name: a built-in's name or an absolute path, from which it opens again; size: the side images were brought to
    (0 = as they are); field: "image" or "text"; shape: (C, H, W) of an image; levels: distinct values per channel;
    sources: whether each row comes with what it is to be made from, an image or a text, as "source"; captions: whether an image
    comes with words, as "text";
    classes: label names, in label order; shares: each class's share of the training rows; rows: split -> count;
    bytes: split -> UTF-8 bytes of text; hash: SHA-256 over every row in order.
    kind: "real", "rendered", "simulated" or "own"; factors: a column's name -> what its values 0, 1, ... stand for, where
    what made a row is known; few: a few pictures of one thing, of which none is held out; asks: what stands between question and
    answer, where each line of a text is an example of one task; talks: whether each row is a conversation, in "messages";
    compares: whether each row has a worse answer beside, as "rejected"; check: by which of data/checks.py an answer to a
    row is right or wrong; rates: as what another answer to each row, "other", was rated: columns of "1" and "0"; principles:
    what answers are held to, a sentence each.
    """

    name: str
    field: str
    kind: str
    licence: str
    attribution: str
    hash: str
    rows: dict[str, int]
    shape: tuple[int, ...] = ()
    levels: int = 256
    classes: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    split: str = ""
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = fresh(default=(), compare=False)  # (file, reason)
    size: int = 0
    sources: bool = False
    captions: bool = False
    bytes: dict[str, int] = fresh(default_factory=dict)
    factors: dict[str, tuple[str, ...]] = fresh(default_factory=dict)
    few: bool = False
    asks: str = ""
    talks: bool = False
    compares: bool = False
    check: str = ""
    rates: tuple[str, ...] = ()
    principles: tuple[str, ...] = ()

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Facts:
        """Facts as read back from run.json."""
        tuples = {k: tuple(v) for k, v in saved.items() if isinstance(v, list)}
        tuples["skipped"] = tuple(tuple(pair) for pair in saved.get("skipped", ()))
        factors = {name: tuple(values) for name, values in saved.get("factors", {}).items()}
        return cls(**{**saved, **tuples, "factors": factors})


def simulated(
    name: str,
    split: str,
    notes: tuple[str, ...] = (),
    asks: str = "",
    check: str = "",
    rates: tuple[str, ...] = (),
    principles: tuple[str, ...] = (),
) -> Facts:
    """Facts of built-in texts that a program here makes."""
    made = Facts(name, "text", "simulated", "Apache-2.0", "maquette", hash="", rows={})
    return replace(made, split=split, notes=notes, asks=asks, check=check, rates=rates, principles=principles)


class Split:
    """Rows in memory, a column per field: uint8 images [N,C,H,W] (0 .. levels-1), int64 labels [N], lists of text.

    Images come out as float32 in 0..1.
    """

    def __init__(self, columns: dict[str, Column], levels: int = 256):
        self.columns, self.levels = columns, levels

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def rows(self, index: Tensor) -> Batch:
        """The rows at int64[B] positions."""
        return {name: self._pick(column, index) for name, column in self.columns.items()}

    def all(self) -> Batch:
        """Every row, in order."""
        return self.rows(torch.arange(len(self)))

    def _pick(self, column: Column, index: Tensor) -> Any:
        if not isinstance(column, Tensor):
            return [column[i] for i in index.tolist()]
        picked = column[index]
        return picked.float() / (self.levels - 1) if picked.dtype == torch.uint8 else picked


class Data:
    """A training and a held-out split, read when first asked for, and the facts about them."""

    def __init__(self, facts: Facts, read: Callable[[], dict[str, Split]]):
        self.facts, self._read = facts, read

    @cached_property
    def splits(self) -> dict[str, Split]:
        return self._read()

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def held(self) -> Split:
        return self.splits["held"]


def noted(data: Data, note: str) -> Data:
    """The same data with a note, said when training begins and in the card; said once."""
    if note in data.facts.notes:
        return data
    return Data(replace(data.facts, notes=(*data.facts.notes, note)), lambda: data.splits)


def check_alike(what: str, was: Facts, now: Facts) -> None:
    """Refuse images of another shape, or of another number of levels, than a trained run's; `what` it did with its own.

    Raises:
        ValueError: they are unlike.
    """
    if (was.shape, was.levels) != (now.shape, now.levels):
        old, new = (f"{'x'.join(map(str, facts.shape))} images of {facts.levels} levels" for facts in (was, now))
        raise ValueError(f"{what} {old} ({was.name}), and data {now.name!r} has {new}")


def image_data(about: Facts, columns: dict[str, dict[str, Column]]) -> Data:
    """Images per split, under `about` completed with what the columns say: rows, shape, shares, hash."""
    pixels, label = columns["train"]["image"], columns["train"].get("label")
    assert isinstance(pixels, Tensor)
    shares: tuple[float, ...] = ()
    if isinstance(label, Tensor):
        shares = tuple((torch.bincount(label, minlength=len(about.classes)).double() / len(label)).tolist())
    facts = replace(
        about,
        hash=fingerprint(columns),
        rows={split: len(found["image"]) for split, found in columns.items()},
        shape=tuple(pixels.shape[1:]),
        shares=shares,
        sources="source" in columns["train"],
        captions="text" in columns["train"],
    )
    return Data(facts, lambda: {split: Split(found, facts.levels) for split, found in columns.items()})


def text_data(about: Facts, columns: dict[str, dict[str, Column]]) -> Data:
    """Texts per split, under `about` completed with what the columns say: rows, bytes, shares, hash."""
    label = columns["train"].get("label")
    shares: tuple[float, ...] = ()
    if isinstance(label, Tensor):
        shares = tuple((torch.bincount(label, minlength=len(about.classes)).double() / len(label)).tolist())
    facts = replace(
        about,
        shares=shares,
        hash=fingerprint(columns),
        rows={split: len(found["text"]) for split, found in columns.items()},
        bytes={split: sum(len(text.encode()) for text in found["text"]) for split, found in columns.items()},
        sources="source" in columns["train"],
        talks="messages" in columns["train"],
        compares="rejected" in columns["train"],
    )
    return Data(facts, lambda: {split: Split(found) for split, found in columns.items()})


_recalled: ContextVar[Facts | None] = ContextVar("recalled", default=None)


@contextmanager
def recall(facts: Facts) -> Iterator[None]:
    """Within: data opens from what a run remembers of it, so that a run samples on a machine without its data."""
    token = _recalled.set(facts)
    try:
        yield
    finally:
        _recalled.reset(token)


def recalled() -> Facts | None:
    return _recalled.get()


def fingerprint(columns: dict[str, dict[str, Column]]) -> str:
    """SHA-256 over every split's every column: names, shapes, bytes and order."""
    digest = hashlib.sha256()
    for split in sorted(columns):
        for name in sorted(columns[split]):
            column = columns[split][name]
            digest.update(f"{split}/{name}/{len(column)}".encode())
            if isinstance(column, Tensor):
                digest.update(f"{column.dtype}{tuple(column.shape)}".encode())
                digest.update(memoryview(column.contiguous().numpy()))  # type: ignore[arg-type]
            else:
                for item in column:
                    raw = item.encode() if isinstance(item, str) else repr(item).encode()
                    digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()
