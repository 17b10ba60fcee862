"""Conversations as rows of symbols: several share a row, none sees another, and only the answers are learnt.

Knows roles and what a codec of conversations does, not which it is.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Batch, Code, Codec, Conversing, Turns
from maquette.data.core import Data, Split
from maquette.data.errors import DataError
from maquette.data.texts import fault_of

Written = tuple[list[int], list[bool]]  # symbols of a conversation, and which of them are answers'
CHUNK = 4096  # conversations tokenised at a time


def conversations(split: Split) -> list[Turns]:
    """The conversations of a split: its "messages", or each "source" as a user's turn and its "text" as the answer.

    Raises:
        DataError: it has neither.
    """
    columns: Mapping[str, Any] = split.columns
    if "messages" in columns:
        return list(columns["messages"])
    if "source" not in columns:
        raise DataError(
            f"these rows have {', '.join(columns)}; conversations are rows with 'messages', or with 'prompt' and 'completion'"
        )
    return [answered(source, text) for source, text in zip(columns["source"], columns["text"], strict=True)]


def check_turns(turns: Turns) -> None:
    """Whether turns are a conversation that asks for an answer.

    Raises:
        ValueError: they are not, and which message is at fault.
    """
    if not turns or any(not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str) for turn in turns):
        raise ValueError('a conversation is a list of {"role": ..., "content": ...}, one of them at least')
    if wrong := fault_of(turns) or ("the last message is an answer" if turns[-1]["role"] == "assistant" else ""):
        raise ValueError(f"this conversation cannot be answered: {wrong}")


def answered(source: str, text: str) -> Turns:
    """A user's turn and its answer."""
    return [{"role": "user", "content": source}, {"role": "assistant", "content": text}]


def asked(codec: Conversing, questions: Sequence[Turns]) -> list[list[int]]:
    """What each sample grows from that is to answer a conversation; of a codec that writes none, the last turn's text alone.

    The symbol that begins a text is not among them where samples begin with it anyway.
    """
    if not codec.converses:
        return codec.tokenize([str(turns[-1]["content"]) for turns in questions])
    return [_bare(codec, symbols) for symbols in codec.converse(questions)]


def opening(codec: Conversing, asks: Sequence[Turns], most: int, new: int = 0) -> Code:
    """What samples grow from that are to answer, with room for `new` symbols (0 = all that `most` leave): int64[n,T].

    Raises:
        ValueError: a conversation that leaves no room for an answer.
    """
    code = codec.filled(asked(codec, asks))
    if code.shape[1] >= most:
        raise ValueError(
            f"the conversation has {code.shape[1]} symbols, {code.shape[1] - most + 1} more than the {most - 1} that leave room "
            f"for an answer in this run's context of {most}; shorten it"
        )
    return torch.nn.functional.pad(code, (0, min(new or most, most - code.shape[1])), value=IGNORE)


def replies(codec: Codec | Any, code: Code, start: Code) -> list[str]:
    """The texts that were written behind what samples grew from."""
    known = (start != IGNORE).sum(1).to(code.device)
    place = known[:, None] + torch.arange(code.shape[1], device=code.device)
    behind = torch.nn.functional.pad(code, (0, 1), value=IGNORE).gather(1, place.clamp(max=code.shape[1]))
    return codec.decode(behind)


def taught(codec: Conversing, whole: Sequence[Turns]) -> list[Written]:
    """Symbols of conversations as a codec writes them, and which of them are answers'.

    A codec that writes none puts an answer behind its question, as both are, and an end behind that.

    Raises:
        DataError: such a codec, and more than a question and an answer.
    """
    if codec.converses:
        found = codec.taught(whole)
        return [(symbols, said[len(said) - len(symbols) :]) for each, said in found for symbols in [_bare(codec, each)]]
    if any([turn["role"] for turn in turns] != ["user", "assistant"] for turns in whole):
        raise DataError(
            "this tokenizer came without a chat template: it says nothing of how a conversation is written. It can be taught "
            "rows with 'prompt' and 'completion'"
        )
    rows = codec.tokenize([turn["content"] for turns in whole for turn in turns])
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return [([*one, *two, codec.ends[0]], [False] * len(one) + [True] * (len(two) + 1)) for one, two in pairs]


def _bare(codec: Any, symbols: list[int]) -> list[int]:
    return symbols[1:] if codec.begins and symbols[:1] == [codec.bos] else symbols


def questions(talks: Sequence[Turns]) -> tuple[list[Turns], list[str]]:
    """Conversations up to their last answer, and that answer."""
    lasts = [max(i for i, turn in enumerate(turns) if turn["role"] == "assistant") for turns in talks]
    answers = [str(turns[i]["content"]) for turns, i in zip(talks, lasts, strict=True)]
    return [turns[:i] for turns, i in zip(talks, lasts, strict=True)], answers


class Kept(NamedTuple):
    """A conversation in symbols, which of them are answers', and which row of the split it is."""

    turns: Turns
    symbols: list[int]
    said: list[bool]
    place: int


class Conversations(Split):
    """Rows of several conversations each: {"code", "learnt", "document"}, each [B,length]. Tokenised when first asked for.

    code: their symbols, filled up with IGNORE; learnt: which of them are answers'; document: which conversation each symbol that
    goes into a network belongs to, where those are the code's, the last left out, behind one that begins it. Each conversation
    begins as if it were alone, with the codec's `bos` where it has one. Longer ones than a row are left out.

    Args:
        split: rows with "messages", or with "source" and "text".
        codec: must have learnt its symbols before the first row is asked for.
        length: symbols of a row.
        packed: several share a row; else each has one for itself.

    Raises:
        DataError: (on first use) more than half of the conversations are too long, or none has an answer.
    """

    def __init__(self, split: Split, codec: Conversing, length: int, packed: bool = True):
        super().__init__(split.columns, split.levels)
        self.codec, self.length, self.packed = codec, length, packed

    @cached_property
    def written(self) -> list[Kept]:
        """Every conversation that fits."""
        every, found = conversations(self), []
        for at in range(0, len(every), CHUNK):
            found += taught(self.codec, every[at : at + CHUNK])
        kept = [len(symbols) <= self.length and any(said) for symbols, said in found]
        left = len(found) - sum(kept)
        if 2 * left > len(found) or left == len(found):
            most = max(len(symbols) for symbols, _ in found)
            mute = sum(not any(said) for _, said in found)
            raise DataError(
                f"{left} of {len(found)} conversations cannot be learnt: {mute} have no answer, the others "
                f"more than {self.length} symbols; the longest has {most}: --context {most}"
            )
        rows = zip(every, found, kept, strict=True)
        return [Kept(turns, *row, place) for place, (turns, row, fits) in enumerate(rows) if fits]

    @property
    def talks(self) -> list[Turns]:
        """The conversations that fit."""
        return [each.turns for each in self.written]

    @cached_property
    def packs(self) -> list[list[int]]:
        """Which conversations share each row: the longest first, each into the fullest row that has room for it."""
        lengths = [len(each.symbols) + bool(self.codec.begins) for each in self.written]
        if not self.packed:
            return [[i] for i in range(len(lengths))]
        rows: list[list[int]] = []
        room: list[tuple[int, int]] = []  # (symbols that are free, row), in order
        most = self.length + bool(self.codec.begins)  # what begins the first stands before the code
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            at = bisect.bisect_left(room, (lengths[i], -1))
            if at < len(room):
                free, row = room.pop(at)
            else:
                free, row = most, len(rows)
                rows.append([])
            rows[row].append(i)
            bisect.insort(room, (free - lengths[i], row))
        return rows

    def __len__(self) -> int:
        return len(self.packs)

    def rows(self, index: Tensor) -> Batch:
        """The rows at int64[B] positions."""
        shared = [[self.written[i][1:3] for i in self.packs[row]] for row in index.tolist()]
        return stacked(self.codec, shared, self.length)


def stacked(codec: Conversing, rows: Sequence[Sequence[Written]], length: int) -> Batch:
    """Rows of conversations in symbols: {"code", "learnt", "document"}, [B,length] each, as `Conversations` has them."""
    code, learnt, document = zip(*(_row(codec, shared, length) for shared in rows), strict=True)
    return {"code": torch.stack(code), "learnt": torch.stack(learnt), "document": torch.stack(document)}


def _row(codec: Conversing, shared: Sequence[Written], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Conversations side by side. The first input is what begins a text: of the first of them, or of none."""
    symbols, said, document = list[int](), list[bool](), list[int]()
    begin = [codec.bos] if codec.begins else []
    for number, (own, answers) in enumerate(shared, 1):
        symbols += [*begin, *own]
        said += [*[False] * len(begin), *answers]
        document += [number] * (len(begin) + len(own))
    if codec.begins:
        symbols, said = symbols[1:], said[1:]
    else:
        document = [0, *document]
        said[0] = False  # nothing stands before it
    code = torch.full((length,), IGNORE, dtype=torch.int64)
    code[: len(symbols)] = torch.tensor(symbols)
    learnt, of = torch.zeros(length, dtype=torch.bool), torch.full((length,), len(shared) + 1)
    learnt[: len(said)] = torch.tensor(said)
    of[: len(document)] = torch.tensor(document[:length])
    return code, learnt, of


def conversed(data: Data, codec: Conversing, length: int, packed: bool = True) -> Data:
    """The same data and facts, its rows conversations in symbols."""
    return Data(
        data.facts,
        lambda: {
            name: Conversations(split, codec, length, packed if name == "train" else False) for name, split in data.splits.items()
        },
    )
