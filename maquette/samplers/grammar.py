"""Texts that keep to a JSON schema, a regular expression or a Lark grammar, by the library llguidance (optional extra `text`).

Knows which symbols may come next; chooses none.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from maquette.contracts import Codec, Spelled

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
        tokenizer = _tokenizer(codec)
        wrong = match.validate_grammar(made, tokenizer)
        if wrong:
            raise ValueError(f"{kind} cannot be kept to: {_plain(wrong)}")
        self.kind, self.ends = kind, codec.ends
        first = match(tokenizer, made, log_level=0)
        self.matchers = [first, *(first.deep_copy() for _ in range(n - 1))]
        self.read: list[list[int]] = [[] for _ in range(n)]
        self.spare = first.deep_copy()

    def allowed(self, row: int, written: list[int], vocab: int) -> Tensor | None:
        """bool[V]: the symbols that may follow what a row has written; None after its end.

        Raises:
            ValueError: what is written does not keep to the grammar.
        """
        if not set(self.ends).isdisjoint(written):
            return None
        while row >= len(self.matchers):
            self.matchers.append(self.spare.deep_copy())
            self.read.append([])
        matcher, read = self.matchers[row], self.read[row]
        same = next((i for i, (a, b) in enumerate(zip(read, written, strict=False)) if a != b), min(len(read), len(written)))
        if same < len(read):
            matcher.rollback(len(read) - same)
        if same < len(written) and not matcher.consume_tokens(written[same:]):
            raise ValueError(f"the {self.kind} does not allow what is written already: {_plain(matcher.get_error())}")
        self.read[row] = list(written)
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        if matcher.is_error():
            raise ValueError(f"the {self.kind} is too much to keep to: {_plain(matcher.get_error())}")
        mask = torch.zeros(vocab, dtype=torch.bool)
        known = torch.from_numpy(np.unpackbits(bits, bitorder="little").astype(bool))[:vocab]
        mask[: len(known)] = known
        return mask


_made: WeakKeyDictionary[Codec, tuple[Any, Any]] = WeakKeyDictionary()  # making one takes up to a second


def _tokenizer(codec: Any) -> Any:
    """The codec's symbols as llguidance has them."""
    import llguidance

    spelling = codec.spelling()
    if codec not in _made or _made[codec][0] != spelling:
        if isinstance(spelling, str):
            made = llguidance.LLTokenizer(spelling, n_vocab=codec.vocab, eos_token=codec.ends[0])
        else:
            made = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Symbols(spelling, codec)), eos_token=codec.ends[0])
        _made[codec] = spelling, made
    return _made[codec][1]


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
