"""A text that another is made of: read by an encoder, whose states a decoder attends to (T5). Knows no decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from maquette.contracts import IGNORE, Batch, Condition, Conditioner, Network, device_of
from maquette.data.tokens import Learned
from maquette.streams import Streams


class Passage(Conditioner):
    """Texts, the field "text" -> tokens [B,L,D] and the mask bool[B,L] of those that are a text's.

    Args:
        tokenizer: with the marks that it puts around a text.
        encoder: symbols int64[B,L], IGNORE where a row is filled up -> states [B,L,D].
    """

    fields = ("text",)
    drops = False

    def __init__(self, tokenizer: Tokenizer, encoder: Network):
        super().__init__()
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokens, self.encoder = Learned(tokenizer), encoder

    def symbols(self, texts: Sequence[str]) -> torch.Tensor:
        """int64[B,L], IGNORE where a row is filled up."""
        rows = [torch.tensor(found.ids) for found in self.tokens.tokenizer.encode_batch_fast(list(texts))]
        made = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORE)
        return made.to(device_of(self.encoder))

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        if "text" not in batch:
            raise ValueError("this model makes a text of another, and was told none: give one, as --prompt")
        x = self.symbols(batch["text"])
        return Condition(tokens=self.encoder(x), mask=x != IGNORE)
