"""Captions as the symbols that an encoder of texts reads. Knows a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from maquette.contracts import Code, Codec
from maquette.data.tokens import Tokens

WORD = "</w>"  # ends a word's last symbol (`Tokens.learn`)


class Captions(Codec):
    """list[str] <-> int64[B,L], cut or filled up to L symbols. What the tokenizer does not tell apart is lost.

    Args:
        tokens: the tokenizer.
    """

    field = "text"
    lossy = True

    def __init__(self, tokens: Tokens):
        super().__init__()
        self.tokens = tokens

    def encode(self, data: Sequence[str]) -> Code:
        return self.tokens(data)[0]

    def decode(self, code: Code) -> list[str]:
        return [text.replace(WORD, " ").strip() for text in self.tokens.tokenizer.decode_batch(code.tolist())]
