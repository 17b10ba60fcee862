"""Two codecs as one: the second reads what the first writes. Knows nothing else."""

from __future__ import annotations

from typing import Any

from maquette.codecs.autoencoder import Autoencoder
from maquette.contracts import Code, Codec


class Chain(Codec):
    """data <-> `outer`'s code <-> `inner`'s code: images as grey values, these as the codes of a trained autoencoder.

    Args:
        outer: data <-> what the inner codec reads.
        inner: a trainable codec.
    """

    lossy = True

    def __init__(self, outer: Codec, inner: Autoencoder):
        super().__init__()
        self.outer, self.inner = outer, inner
        self.field, self.bos, self.length = outer.field, inner.bos, inner.length
        self.books, self.grid = inner.books, inner.grid

    def encode(self, data: Any) -> Code:
        return self.inner.encode(self.outer.encode(data))

    def decode(self, code: Code) -> Any:
        return self.outer.decode(self.inner.decode(code))
