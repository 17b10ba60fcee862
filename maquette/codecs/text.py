"""Text as symbols: its bytes, or byte pairs merged as the training corpus suggests. Lossless both ways.

Knows strings and symbols; not how long a model's context is used, nor what the text is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from maquette.contracts import IGNORE, Code, Codec
from maquette.data.tokens import Learned

END = "<|endoftext|>"
# Merges stay within a word with the space before it, a run of up to 3 digits, a run of marks, or a line break with the
# indentation after it (after GPT-4's pattern; the indentation is what code gains by).
PATTERN = r" ?[\p{L}_]+|\d{1,3}| ?[^\s\p{L}_\d]+|\s*\n\s*(?=\S|$)|\s+"


class Text(Codec):
    """list[str] <-> int64[B,T], padded at the right with IGNORE.

    Args:
        length: symbols of context, beginning excluded.
        vocab: symbols, the one that begins and ends every text (`bos`) included.
    """

    field = "text"
    place: Tensor

    def __init__(self, length: int, vocab: int, bos: int):
        super().__init__()
        if length < 1:
            raise ValueError(f"a context holds at least 1 symbol, not {length}")
        self.length, self.vocab, self.bos = length, vocab, bos
        self.register_buffer("place", torch.zeros(()), persistent=False)  # where codes are made

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Symbols of each text, without `bos`."""
        raise NotImplementedError

    def join(self, symbols: Sequence[int]) -> str:
        """The text of some symbols; bytes that are no UTF-8 become U+FFFD."""
        raise NotImplementedError

    def encode(self, data: Sequence[str]) -> Code:
        rows = self.tokenize(list(data))
        code = torch.full((len(rows), max(map(len, rows), default=0)), IGNORE, dtype=torch.int64)
        for row, symbols in zip(code, rows, strict=True):
            row[: len(symbols)] = torch.tensor(symbols, dtype=torch.int64)
        return code.to(self.place.device)

    def decode(self, code: Code) -> list[str]:
        """The text of each row up to its first `bos` or IGNORE."""
        over = (code == self.bos) | (code == IGNORE)
        ends = torch.where(over.any(1), over.long().argmax(1), code.shape[1]) if code.shape[1] else code.new_zeros(len(code))
        return [self.join(row[:end]) for row, end in zip(code.tolist(), ends.tolist(), strict=True)]


class Bytes(Text):
    """UTF-8 bytes; 256 begins and ends every text.

    Args:
        length: bytes of context.
    """

    def __init__(self, length: int = 256):
        super().__init__(length, vocab=257, bos=256)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def spelling(self) -> list[bytes]:
        return [*(bytes([symbol]) for symbol in range(256)), b""]

    def join(self, symbols: Sequence[int]) -> str:
        return bytes(s for s in symbols if s < 256).decode(errors="replace")


class BPE(Text, Learned):
    """Byte-level byte-pair encoding (Sennrich 2016, Radford 2019), learned from the training text before the first step.

    What was learned travels in the state dict as the bytes of a tokenizer.json. 0 begins and ends every text.

    Args:
        vocab: symbols, the 256 bytes and `bos` included.
        length: symbols of context.
    """

    def __init__(self, vocab: int = 4096, length: int = 256):
        if not 257 <= vocab <= 1 << 20:
            raise ValueError(f"vocab is 257 (bytes alone) .. 1048576, not {vocab}; nearest is {min(max(vocab, 257), 1 << 20)}")
        super().__init__(length, vocab, bos=0)

    def learn(self, data: Any) -> None:
        """Find the merges on the texts of a split, or on a list of texts."""
        documents = data.columns[self.field] if hasattr(data, "columns") else data
        tokenizer = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        end = [AddedToken(END, special=True)]
        trainer = trainers.BpeTrainer(vocab_size=self.vocab, initial_alphabet=alphabet, special_tokens=end, show_progress=False)
        tokenizer.train_from_iterator(documents, trainer)
        self.keep(tokenizer)

    @property
    def tokenizer(self) -> Tokenizer:
        """What was learned.

        Raises:
            ValueError: nothing has been.
        """
        found = super().tokenizer
        found.encode_special_tokens = True  # a text that spells <|endoftext|> is text
        return found

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def join(self, symbols: Sequence[int]) -> str:
        return self.tokenizer.decode(list(symbols), skip_special_tokens=True)

    def spelling(self) -> str:
        return self.tokenizer.to_str()
