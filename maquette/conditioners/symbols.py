"""Captions as symbols, for a network that embeds them itself. Knows a tokenizer, which learns from the captions; no network."""

from __future__ import annotations

from typing import Any

from maquette.conditioners.captions import EXAMPLES, Captions
from maquette.contracts import Batch, Condition
from maquette.data.tokens import Tokens
from maquette.streams import Streams


class Symbols(Captions):
    """Captions list[str] -> symbols int64[B,L] in the place of tokens, and bool[B,L], which are the text's.

    The null condition is the negative prompt's, by default "". The tokenizer is learned from the training rows' captions, and
    checkpointed.

    Args:
        length: symbols of every caption; a longer one is cut, and `notes` say so.
        vocab: of the tokenizer; the last symbol ends every caption.
        kept: captions kept at most, for samples that nobody said anything about.

    Raises:
        ValueError: data to learn from that have no captions; no list of captions.
    """

    def __init__(self, length: int, vocab: int, kept: int = EXAMPLES):
        super().__init__(kept=kept)
        self.vocab, self.tokens = vocab, Tokens(length=length)

    def learn(self, data: Any) -> None:
        texts = self.keep(data)
        if not len(self.tokens.learned):
            self.tokens.learn(texts, self.vocab)

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        texts = batch.get("text")
        if texts is None or isinstance(texts, str) or not len(texts):
            raise ValueError(f"a list of captions is wanted as 'text', a row each, not {texts!r}")
        gone = [drop >= 1] * len(texts)
        if 0 < drop < 1 and rng is not None:
            gone = (rng.uniform() < drop).tolist()
        others = self.instead(batch, len(texts))
        symbols, real = self.tokens([other if lost else text for text, other, lost in zip(texts, others, gone, strict=True)])
        return Condition(tokens=symbols, mask=real)

    def notes(self, batch: Batch) -> list[str]:
        said = list(dict.fromkeys(text for name in ("text", "negative") for text in batch.get(name) or ()))
        return [
            f"{text!r} is too long, {rest!r} is left out"
            for text, rest in zip(said, self.tokens.unheard(said), strict=True)
            if rest
        ]
