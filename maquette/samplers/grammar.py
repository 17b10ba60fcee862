"""Texts that keep to a JSON schema, a regular expression or a Lark grammar, by the library llguidance (optional extra `text`).

Knows which symbols may come next; chooses none.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from maquette.contracts import Codec, Spelled

LOOKS = (64, 48, 32, 24, 16)  # room left at which it is asked how far the end is
LAST = 12  # room left from which on it is asked of every symbol
TRIED = 24  # symbols that may lead there
FEW = 64  # symbols at most where a structure goes on; where text is free there are more
CLOSING = b"}])>"
JSON = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}  # as json.dumps writes


class Grammar:
    """What may come next in each of n texts.

    Args:
        codec: one whose symbols are spelled.
        n: texts.
        schema, regex, lark: what the texts keep to; one of them.

    Raises:
        ImportError: llguidance is not installed.
        ValueError: the codec's symbols have no spelling; the grammar is none, and why.
    """

    def __init__(self, codec: Codec, n: int, *, schema: str = "", regex: str = "", lark: str = ""):
        try:
            import llguidance
        except ImportError:
            raise ImportError("schema, regex and grammar need llguidance: pip install 'maquette[text]'") from None
        if not isinstance(codec, Spelled):
            raise ValueError(f"the symbols of {type(codec).__name__} have no spelling that a grammar could be kept by")
        kind = "schema" if schema else "regex" if regex else "grammar"
        match: Any = llguidance.LLMatcher
        if schema:
            made = match.grammar_from_json_schema(schema, defaults=JSON)
        else:
            made = match.grammar_from_regex(regex) if regex else match.grammar_from_lark(lark)
        tokenizer, self.short, self.closing = _tokenizer(codec)
        wrong = match.validate_grammar(made, tokenizer)
        if wrong:
            raise ValueError(f"{kind} cannot be kept to: {_plain(wrong)}")
        self.kind, self.end, self.over = kind, codec.ends[0], {codec.bos, *codec.ends}
        first = match(tokenizer, made, log_level=0)
        self.matchers = [first, *(first.deep_copy() for _ in range(n - 1))]
        self.read: list[list[int]] = [[] for _ in range(n)]
        self.ways: dict[tuple[int, tuple[int, ...]], list[int]] = {}  # room, and what was written -> what must follow
        self.spare = first.deep_copy()

    def allowed(self, row: int, written: list[int], vocab: int, room: int) -> Tensor | None:
        """bool[V]: the symbols that may follow what a row has written; None after its end.

        Where the room that is left, in symbols, runs short, only those on a way to the end. All follows from what is given here.

        Raises:
            ValueError: what is written does not keep to the grammar.
        """
        if not self.over.isdisjoint(written):
            return None
        while row >= len(self.matchers):
            self.matchers.append(self.spare.deep_copy())
            self.read.append([])
        forced, mask = self._forced(row, written, room), torch.zeros(vocab, dtype=torch.bool)
        if forced is not None:
            mask[forced] = True
            return mask
        matcher = self._at(row, written)
        known = _symbols(matcher)
        if matcher.is_error():
            raise ValueError(f"the {self.kind} is too much to keep to: {_plain(matcher.get_error())}")
        if room <= LAST:
            known = self._in_time(matcher, known, room)
        known = known[:vocab]
        mask[: len(known)] = torch.from_numpy(known)
        return mask

    def _at(self, row: int, written: list[int]) -> Any:
        """The row's matcher, where that is written.

        Raises:
            ValueError: what is written does not keep to the grammar.
        """
        matcher, read = self.matchers[row], self.read[row]
        same = next((i for i, (a, b) in enumerate(zip(read, written, strict=False)) if a != b), min(len(read), len(written)))
        if same < len(read):
            matcher.rollback(len(read) - same)
        if same < len(written) and not matcher.consume_tokens(written[same:]):
            raise ValueError(f"the {self.kind} does not allow what is written already: {_plain(matcher.get_error())}")
        self.read[row] = list(written)
        return matcher

    def _forced(self, row: int, written: list[int], room: int) -> int | None:
        """The symbol that must follow for the text to end in time; None where it may yet go on as it likes.

        That follows from what is written alone, whoever looked before: a way that was found binds until the end.
        """
        whole = room + len(written)
        first = min(whole, LOOKS[0])
        for at, below in pairwise((first, *(at for at in LOOKS if at < first), LAST)):
            size = whole - at
            if size > len(written) or at <= LAST:
                continue
            key = at, tuple(written[:size])
            if key not in self.ways:
                self.ways[key] = self.way(self._at(row, written[:size]), at)
            way, since = self.ways[key], written[size:]
            if below - 2 < len(way) > len(since) and way[: len(since)] == since:
                return way[len(since)]
        return None

    def _in_time(self, matcher: Any, known: np.ndarray, room: int) -> np.ndarray:
        """bool[V]: those of the known symbols after which the end is reached in the room that is left; all, where after none.

        Where many may follow, those of one byte alone. The end itself need not find room.
        """
        some = np.flatnonzero(known)
        some = some if len(some) <= FEW else np.array([i for i in (*self.short, *self.over) if known[i]])
        found: dict[tuple[Any, ...], bool] = {}  # bytes of a kind, and what may follow them -> whether the end is near
        fine = np.zeros_like(known)
        for symbol in some.tolist():
            if symbol in self.over:
                fine[symbol] = True
                continue
            after = matcher.deep_copy()
            after.consume_token(symbol)
            then = _symbols(after)
            key = (self.short.get(symbol, symbol), then.tobytes())
            if key not in found:
                found[key] = bool(then[self.end]) or bool(self.way(after, room))
            fine[symbol] = found[key]
        return fine if fine.any() else known

    def way(self, matcher: Any, room: int, branch: bool = True) -> list[int]:
        """Symbols that lead to the end, its own included; [] where none are found.

        Looks one symbol ahead: for what closes, else for where the fewest symbols may follow; at its first step tries, in a
        structure, all that differ in what may follow. That ends JSON; of a grammar whose end must be spelled among free text it
        may find none.
        """
        found: list[int] = []
        matcher = matcher.deep_copy()
        while len(found) < room:
            may = _symbols(matcher)
            if may[self.end]:
                return [*found, self.end]
            tried = [i for i in self.short if may[i]]
            structure = int(may.sum()) <= FEW
            tried = sorted(tried, key=lambda i: i not in self.closing) if structure else tried
            ahead: dict[bytes, tuple[Any, ...]] = {}
            for symbol in (tried or np.flatnonzero(may).tolist())[:TRIED]:
                after = matcher.deep_copy()
                after.consume_token(symbol)
                then = _symbols(after)
                worth = (not then[self.end], structure and symbol not in self.closing, int(then.sum()))
                ahead.setdefault(then.tobytes(), (worth, symbol, after))
            if not ahead:
                return []
            if branch and structure and len(ahead) > 1:
                ways = ([symbol, *rest] for _, symbol, after in ahead.values() if (rest := self.way(after, room - 1, False)))
                return min(ways, key=len, default=[])
            _, symbol, matcher = min(ahead.values(), key=lambda one: one[0])
            found.append(symbol)
            branch = False
        return []


def _symbols(matcher: Any) -> np.ndarray:
    """bool[V]: what may come next."""
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little").astype(bool)


_made: WeakKeyDictionary[Codec, tuple[Any, ...]] = WeakKeyDictionary()  # making one takes up to a second


def _lead(byte: int) -> int:
    """What a byte is in UTF-8, below 0: a character, what continues one, the lead of two, three or four."""
    return (byte ^ 0xFF).bit_length() - 9


def _tokenizer(codec: Any) -> tuple[Any, dict[int, int], set[int]]:
    """The codec's symbols as llguidance has them, those of one byte and its kind, and those of them that close something."""
    import llguidance

    spelling = codec.spelling()
    if codec not in _made or _made[codec][0] != spelling:
        if isinstance(spelling, str):
            made = llguidance.LLTokenizer(spelling, n_vocab=codec.vocab, eos_token=list(codec.ends))
            spelled = [made.decode_bytes([symbol]) for symbol in range(made.vocab_size)]
        else:
            made = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Symbols(spelling, codec)), eos_token=list(codec.ends))
            spelled = spelling
        short = {i: _lead(one[0]) for i, one in enumerate(spelled) if len(one) == 1 and i not in codec.ends}
        _made[codec] = spelling, made, short, {symbol for symbol in short if spelled[symbol] in CLOSING}
    return _made[codec][1:]  # type: ignore[return-value]


class _Symbols:
    """What llguidance asks of a tokenizer that is no file."""

    def __init__(self, spelling: list[bytes], codec: Any):
        self.eos_token_id, self.bos_token_id, self.tokens = codec.ends[0], None, spelling
        self.special_token_ids, self._codec = list(codec.ends), codec

    def __call__(self, text: bytes | str) -> list[int]:
        said = text.decode(errors="replace") if isinstance(text, bytes) else text
        return self._codec.tokenize([said])[0]


def _plain(message: str) -> str:
    """A message of the library's, in one line."""
    return " ".join(message.split())
