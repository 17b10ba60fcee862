"""A text that is read, for another that is written of it. Knows an encoder, and symbols that it shares with the writer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from maquette.conditioners.captions import EXAMPLES, Captions
from maquette.contracts import IGNORE, Batch, Codec, Condition, ended
from maquette.networks.transformer import Transformer
from maquette.streams import Streams


class Reader(Captions):
    """Texts "source" list[str] -> an encoder's states [B,L,D] and bool[B,L], for cross-attention (Vaswani 2017, sec. 3.1).

    Keeps some of the training rows' sources, checkpointed, for samples that nobody gave one.

    Args:
        encoder: looks both ways and scores nothing.
        codec: of the system; it has learnt before this is asked anything.
        length: symbols of a source that are read, its end included; `notes` say what is left out.
        kept: sources kept at most.
    """

    edges = ("encoder.embed", "encoder.places")
    drops = False

    def __init__(self, encoder: Transformer, codec: Codec, length: int, kept: int = EXAMPLES):
        super().__init__("source", kept)
        self.encoder, self.length = encoder, length
        self._codec = (codec,)  # the system's own: in a tuple it is neither moved nor saved twice
        if length < 2:
            raise ValueError(f"a source has at least 2 symbols, one and its end, not {length}")

    def learn(self, data: Any) -> None:
        self.keep(data)

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        """One of the sources kept.

        Raises:
            ValueError: none is, as of a published model, and nobody said what to read.
        """
        if said and "source" in said:
            return {}
        if not len(self.examples):
            raise ValueError("this system writes a text of another, and was told none: give one, as --prompt")
        return super().guess(rng, said)

    def symbols(self, texts: list[str]) -> Tensor:
        """int64[B,L], the end of each behind it, filled up with IGNORE."""
        (codec,) = self._codec
        code = codec.encode(texts)
        return ended(code[:, : self.length - 1], codec.ends[0], self.length)

    def notes(self, batch: Batch) -> list[str]:
        said = list(dict.fromkeys(batch.get("source") or ()))
        lengths = (self._codec[0].encode(said) != IGNORE).sum(1).tolist() if said else []
        return [
            f"{text[:40]!r}... has {length} symbols, and {self.length - 1} of them are read"
            for text, length in zip(said, lengths, strict=True)
            if length >= self.length
        ]

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        texts = batch.get("source")
        if texts is None or isinstance(texts, str) or not len(texts):
            raise ValueError(f"a list of texts is wanted as 'source', a row each, not {texts!r}")
        x = self.symbols(list(texts))
        return Condition(tokens=self.encoder(x), mask=x != IGNORE)
