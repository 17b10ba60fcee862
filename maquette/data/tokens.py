"""Text as the symbols that encoders read: so many a text, cut or filled up. Knows no network; a codec of texts is lossless.

The tokenizer travels in the state dict, as the bytes of its tokenizer.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, pre_tokenizers, trainers
from torch import Tensor, nn

from maquette.data.errors import DataError
from maquette.data.vocabularies import BEGIN, END, clip, read

COMMON = 0.8  # of a vocabulary, its first symbols: byte pairs are numbered as they were found, the most frequent first
LONGEST = 1 << 20  # files say 10**30 where they mean "any length"


class Learned(nn.Module):
    """Holds a tokenizer, once there is one."""

    learned: Tensor

    def __init__(self, tokenizer: Tokenizer | None = None):
        super().__init__()
        self.register_buffer("learned", torch.zeros(0, dtype=torch.uint8))
        self._tokenizer: Tokenizer | None = None
        if tokenizer is not None:
            self.keep(tokenizer)

    def keep(self, tokenizer: Tokenizer) -> None:
        """Hold this one from now on."""
        raw = np.frombuffer(tokenizer.to_str().encode(), dtype=np.uint8).copy()
        self.learned, self._tokenizer = torch.from_numpy(raw).to(self.learned.device), None

    @property
    def tokenizer(self) -> Tokenizer:
        """What is held.

        Raises:
            ValueError: nothing is.
        """
        if self._tokenizer is None:
            if not len(self.learned):
                name = type(self).__name__
                raise ValueError(f"this {name} has not learned from a corpus yet: call learn(data), or load a trained run")
            self._tokenizer = Tokenizer.from_str(self.learned.cpu().numpy().tobytes().decode())
        return self._tokenizer

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(prefix + "learned")
        if saved is not None:  # its length is the corpus's doing
            self.learned, self._tokenizer = self.learned.new_empty(saved.shape), None
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Tokens(Learned):
    """list[str] -> symbols int64[B,L], and which of them are the text's: bool[B,L].

    A text too long is cut, its last symbol still the end; `unheard` says what was cut off.

    Args:
        length: symbols of every text, of one that is yet to learn.
    """

    def __init__(self, tokenizer: Tokenizer | None = None, *, length: int = 77):
        super().__init__(tokenizer)
        self._length = length

    @classmethod
    def read(cls, folder: str | Path, length: int = 0) -> Self:
        """The tokenizer of a folder as the hub publishes it.

        Args:
            length: symbols of every text; 0 = as many as the folder says its network reads.

        Raises:
            DataError: no tokenizer is there, or it does not say how long its texts are or what fills them up.
        """
        tokenizer, said = read(Path(folder))
        most = int(said.get("model_max_length") or LONGEST)
        if not length and most >= LONGEST:
            raise DataError(f"the tokenizer of {folder} does not say how long its texts are; give a length")
        side = str(said.get("padding_side") or "right")
        return cls(_measured(tokenizer, length or most, str(said.get("pad_token") or ""), str(folder), side))

    @property
    def length(self) -> int:
        """Symbols of every text."""
        padding = self.tokenizer.padding if len(self.learned) else None
        return int(padding["length"]) if padding is not None else self._length

    def learn(self, texts: Sequence[str], vocab: int) -> None:
        """Find byte pairs as CLIP's on some texts: bytes, bytes that end a word, merges, the beginning, the end (vocab - 1).

        Raises:
            ValueError: a vocabulary too small for the bytes.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        least = 2 * len(alphabet) + 2
        if vocab < least:
            raise ValueError(
                f"vocab is {vocab}; it must be at least {least}, the bytes within and at the end of words and two ends"
            )
        pairs = clip({BEGIN: 0, END: 1}, [])
        trainer = trainers.BpeTrainer(vocab_size=vocab, end_of_word_suffix="</w>", show_progress=False)
        pairs.train_from_iterator(texts, trainer)
        merges = [(a, b) for a, b in json.loads(pairs.to_str())["model"]["merges"]][: vocab - least]
        symbols = [*alphabet, *(one + "</w>" for one in alphabet), *(a + b for a, b in merges)]
        symbols += [f"<|unused{i}|>" for i in range(vocab - 2 - len(symbols))] + [BEGIN, END]
        tokenizer = clip({one: i for i, one in enumerate(symbols)}, merges)
        tokenizer.add_special_tokens([BEGIN, END])
        self.keep(_measured(tokenizer, self._length, END, "what was learned"))

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = self.tokenizer.encode_batch(checked(texts))
        ids, real = (torch.tensor([getattr(one, name) for one in found]) for name in ("ids", "attention_mask"))
        size = (len(found), self.length)
        return ids.long().view(size).to(self.learned.device), real.bool().view(size).to(self.learned.device)

    def symbols(self, word: str) -> list[int]:
        """The symbols that a word alone is made of, without the ends of a text."""
        found = self.tokenizer.encode(checked([word])[0], add_special_tokens=False)
        return [symbol for symbol, real in zip(found.ids, found.attention_mask, strict=True) if real]

    def knows(self, word: str) -> bool:
        """Whether a word is a common one here: one symbol, and not of the rarest fifth, which stand last."""
        found = self.symbols(word)
        return len(found) == 1 and found[0] < COMMON * self.tokenizer.get_vocab_size()

    def coin(self, word: str) -> None:
        """Make a word one symbol of its own, the next number that is free, wherever it stands alone in a text."""
        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True)])
        self.keep(tokenizer)

    def places(self, texts: Sequence[str]) -> list[list[int]]:
        """At which of its text's characters each symbol begins, a list of L per text; -1 where it stands for none."""
        found = self.tokenizer.encode_batch(checked(texts))
        return [
            [-1 if special else start for (start, _), special in zip(one.offsets, one.special_tokens_mask, strict=True)]
            for one in found
        ]

    def unheard(self, texts: Sequence[str]) -> list[str]:
        """What of each text lies beyond its length and is cut off: "" where nothing does."""
        found = self.tokenizer.encode_batch(checked(texts))
        rests = []
        for text, one in zip(texts, found, strict=True):
            places = (
                zip(one.overflowing[0].offsets, one.overflowing[0].special_tokens_mask, strict=True) if one.overflowing else ()
            )
            start = next((first for (first, _), special in places if not special), len(text))
            rests.append(text[start:])
        return rests


def _measured(tokenizer: Tokenizer, length: int, pad: str, where: str, side: str = "right") -> Tokenizer:
    """The tokenizer, made to cut and fill up every text to `length` symbols."""
    filler = tokenizer.token_to_id(pad) if pad else None
    if filler is None:
        raise DataError(f"the tokenizer of {where} does not say by which symbol short texts are filled up (pad_token is {pad!r})")
    least = tokenizer.num_special_tokens_to_add(False) + 1
    if length < least:
        raise ValueError(f"length is {length}; a text of one symbol and its ends has {least}")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=filler, pad_token=pad, direction=side)
    return tokenizer


def checked(texts: Sequence[str]) -> list[str]:
    """Texts that can be bytes.

    Raises:
        ValueError: one is no string, or holds half of a surrogate pair.
    """
    if isinstance(texts, str):
        raise ValueError("a list of texts is wanted, a row each, not one string")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {i} is a {type(text).__name__}, not a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text {i} is not Unicode: a lone surrogate at character {error.start}") from None
    return list(texts)
