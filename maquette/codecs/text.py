"""Text as symbols: its bytes, or pieces of words as the training corpus suggests them. Lossless both ways, but for WordPiece.

Knows strings and symbols; not how long a model's context is used, nor what the text is about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from maquette.contracts import IGNORE, Code, Codec, Turns
from maquette.data.pieces import PATTERN, unigram, wordpieces
from maquette.data.tokens import Learned, checked

END = "<|endoftext|>"
HOLE = ("<|prefix|>", "<|suffix|>", "<|middle|>")  # special symbols of a codec of texts with a hole, each before its part
MOST = 1 << 20  # symbols of a vocabulary
ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant", "tool")}  # special symbols that begin a turn,
OVER = "<|over|>"  # and the one that ends it: where both are, conversations can be written
TURNS = (*ROLES.values(), OVER)


class Text(Codec):
    """list[str] <-> int64[B,T], padded at the right with IGNORE.

    A text that spells a special symbol's name is text; where it is asked for, `tokenize` reads the name as the symbol.

    Args:
        length: symbols of context, beginning excluded.
        vocab: symbols, the one that begins and ends every text (`bos`) and the special ones included.
        special: names of further symbols, which no text is made of: a mask, sentinels, separators. They are the vocabulary's
            last, in this order, behind `plain` others; `special[name]` is the symbol.

    Raises:
        ValueError: no context, or names that are empty or equal.
    """

    field = "text"
    spelt = False  # whether texts spell special symbols by name, for data that are made so
    place: Tensor

    def __init__(self, length: int, vocab: int, bos: int, special: Sequence[str] = ()):
        super().__init__()
        if length < 1:
            raise ValueError(f"a context holds at least 1 symbol, not {length}")
        if isinstance(special, str) or not all(special) or len({*special, END}) <= len(special):
            raise ValueError(f"special symbols are named by different texts, none of them '' or {END!r}, not by {special!r}")
        self.length, self.vocab, self.bos = length, vocab, bos
        self.plain = vocab - len(special)
        self.special = {END: bos, **{name: self.plain + i for i, name in enumerate(special)}}
        self.register_buffer("place", torch.zeros(()), persistent=False)  # where codes are made

    def cut(self, texts: list[str]) -> list[list[int]]:
        """Symbols of each text, none of them special."""
        raise NotImplementedError

    def glue(self, symbols: list[int]) -> str:
        """The text of some symbols, none of them special; bytes that are no UTF-8 become U+FFFD."""
        raise NotImplementedError

    def spelling(self) -> str | list[bytes]:
        """Its tokenizer.json, or the bytes that each symbol stands for: what tells it from another."""
        raise NotImplementedError

    def tokenize(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Symbols of each text, without `bos`; where `special`, names of special symbols as those.

        Raises:
            ValueError: what is no text, or holds half of a surrogate pair.
        """
        texts = checked(texts)
        if not special:
            return self.cut(texts)
        names = re.compile("(" + "|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) + ")")
        parts = [names.split(text) for text in texts]
        found = iter(self.cut([part for some in parts for part in some[::2]]))
        rows: list[list[int]] = []
        for some in parts:
            rows.append(list(next(found)))
            for name in some[1::2]:
                rows[-1] += [self.special[name], *next(found)]
        return rows

    def join(self, symbols: Sequence[int], special: bool = False) -> str:
        """The text of some symbols; special ones by name, or, where not `special`, not at all."""
        names = {symbol: name for name, symbol in self.special.items()}
        parts: list[Any] = [[]]
        for symbol in symbols:
            if symbol not in names:
                parts[-1].append(symbol)
            elif special:
                parts += [names[symbol], []]
        return "".join(part if isinstance(part, str) else self.glue(part) if part else "" for part in parts)

    @property
    def ends(self) -> tuple[int, ...]:
        return (self.bos, self.special[OVER]) if OVER in self.special else (self.bos,)

    @property
    def converses(self) -> bool:
        """Whether there are symbols for the turns of a conversation."""
        return {*TURNS} <= self.special.keys()

    def converse(self, conversations: Sequence[Turns], *, reply: bool = True) -> list[list[int]]:
        """Symbols of each conversation, each turn between its role's symbol and the one that ends it.

        Args:
            reply: end with the symbol that begins an answer.

        Raises:
            ValueError: there are no such symbols, or no such role.
        """
        begun = [self.special[ROLES["assistant"]]] if reply and self.converses else []
        return [[*symbols, *begun] for symbols, _ in self.taught(conversations)]

    def taught(self, conversations: Sequence[Turns]) -> list[tuple[list[int], list[bool]]]:
        """The same without a further answer, and which symbols are answers', the end of each among them."""
        if not self.converses:
            raise ValueError(
                "this tokenizer has no symbols for the turns of a conversation; `maquette train sft` gives a run some"
            )
        for turn in (turn for turns in conversations for turn in turns):
            if turn["role"] not in ROLES:
                raise ValueError(f"a turn is of role {turn['role']!r}; allowed are {', '.join(ROLES)}")
        texts = iter(self.tokenize([turn["content"] for turns in conversations for turn in turns]))
        found = []
        for turns in conversations:
            symbols: list[int] = []
            said: list[bool] = []
            for turn in turns:
                own = next(texts)
                symbols += [self.special[ROLES[turn["role"]]], *own, self.special[OVER]]
                said += [False, *[turn["role"] == "assistant"] * (len(own) + 1)]
            found.append((symbols, said))
        return found

    @property
    def holed(self) -> bool:
        """Whether it knows texts with a hole."""
        return set(HOLE) <= set(self.special)

    def around(self, prefix: str, suffix: str, most: int = 0) -> list[int]:
        """Symbols of a text with a hole, behind which what fills it is to follow: the suffix first, then the prefix, so that what
        fills the hole goes on from it as in any other text (Bavarian 2022, sec. 3: SPM).

        Args:
            most: how many symbols it may be, a third of them for the suffix, the nearest of each; 0 = all.
        """
        before, after = self.tokenize([prefix, suffix])
        if most:
            after = after[: most // 3]
            before = before[max(0, len(before) + len(after) + len(HOLE) - most) :]
        first, second, middle = (self.special[name] for name in HOLE)
        return [first, second, *after, middle, *before]

    def laid(self, symbols: list[int]) -> list[int]:
        """Symbols in the order of their text: what fills a hole in its place."""
        if not self.holed or not {self.special[name] for name in HOLE} <= {*symbols}:
            return symbols
        second, middle = (symbols.index(self.special[name]) for name in HOLE[1:])
        return [*symbols[:second], *symbols[middle + 1 :], *symbols[second + 1 : middle]]

    def encode(self, data: Sequence[str]) -> Code:
        return self.filled(self.tokenize(data, self.spelt))

    def filled(self, rows: Sequence[Sequence[int]]) -> Code:
        """Rows of symbols as a code."""
        code = torch.full((len(rows), max(map(len, rows), default=0)), IGNORE, dtype=torch.int64)
        for row, symbols in zip(code, rows, strict=True):
            row[: len(symbols)] = torch.tensor(symbols, dtype=torch.int64)
        return code.to(self.place.device)

    def decode(self, code: Code) -> list[str]:
        """The text of each row up to the first symbol that ends one, or IGNORE; where it has a hole, with that filled."""
        over = torch.isin(code, torch.tensor([*self.ends, IGNORE], device=code.device))
        ends = torch.where(over.any(1), over.long().argmax(1), code.shape[1]) if code.shape[1] else code.new_zeros(len(code))
        return [self.join(self.laid(row[:end]), self.spelt) for row, end in zip(code.tolist(), ends.tolist(), strict=True)]


class Bytes(Text):
    """UTF-8 bytes; 256 begins and ends every text.

    Args:
        length: bytes of context.
        special: as Text has them: 257 and what follows.
    """

    def __init__(self, length: int = 256, special: Sequence[str] = ()):
        super().__init__(length, 257 + len(special), 256, special)

    def cut(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def glue(self, symbols: list[int]) -> str:
        return bytes(symbol for symbol in symbols if symbol < 256).decode(errors="replace")

    def spelling(self) -> list[bytes]:
        return [*(bytes([symbol]) for symbol in range(256)), *(b"" for _ in self.special)]


class Pieces(Text, Learned):
    """Pieces of words, learned from the training text before the first step; 0 begins and ends every text.

    What was learned travels in the state dict as the bytes of a tokenizer.json.

    Args:
        vocab: symbols; what they are made of, `bos` and the special ones included.
        length: symbols of context.
        special: as Text has them.
    """

    least: int  # symbols, without the special ones

    def __init__(self, vocab: int = 4096, length: int = 256, special: Sequence[str] = ()):
        low = self.least + len(special)
        if not low <= vocab <= MOST:
            raise ValueError(f"vocab is {low} .. {MOST}, not {vocab}; nearest is {min(max(vocab, low), MOST)}")
        super().__init__(length, vocab, 0, special)

    def fit(self, texts: Sequence[str], size: int) -> Tokenizer:
        """A tokenizer of at most `size` symbols, of which 0 is no text's."""
        raise NotImplementedError

    def learn(self, data: Any) -> None:
        """Find the pieces on the texts of a split, and on those that they are made from; or on a list of texts."""
        columns = data.columns if hasattr(data, "columns") else {self.field: data}
        told = columns.get("source", ())
        sources = [] if isinstance(told, Tensor) else list(told)  # an image is no text
        self.keep(self.fit([*columns[self.field], *sources], self.plain))

    @property
    def tokenizer(self) -> Tokenizer:
        """What was learned.

        Raises:
            ValueError: nothing has been.
        """
        found = super().tokenizer
        found.encode_special_tokens = True  # a text that spells <|endoftext|> is text
        return found

    def cut(self, texts: list[str]) -> list[list[int]]:
        return [found.ids for found in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def glue(self, symbols: list[int]) -> str:
        return self.tokenizer.decode(symbols, skip_special_tokens=True)

    def spelling(self) -> str:
        return self.tokenizer.to_str()


class BPE(Pieces):
    """Byte-level byte-pair encoding (Sennrich 2016, Radford 2019): the 256 bytes, and what merging frequent pairs finds."""

    least = 257

    def fit(self, texts: Sequence[str], size: int) -> Tokenizer:
        tokenizer = Tokenizer(models.BPE())
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), level])
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        end = [AddedToken(END, special=True)]
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=end, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer


class Unigram(Pieces):
    """The likeliest cut of a text into pieces, each by itself (Kudo 2018); 1 .. 256 are bytes, for characters of no piece."""

    least = 258

    def fit(self, texts: Sequence[str], size: int) -> Tokenizer:
        fixed = [END, *(f"<0x{byte:02X}>" for byte in range(256))]
        found = unigram(texts, size - len(fixed))
        # no text holds the fixed ones: each spans several words
        pieces = [(name, -1e3) for name in fixed] + [(piece, score) for piece, score in found if piece not in fixed]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "isolated")
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        return tokenizer


class WordPiece(Pieces):
    """The longest piece first, within words (Wu 2016), as BERT reads (Devlin 2019), capitals kept; 1 stands for what is unknown.

    White space comes back as single spaces, those around marks by guess, and a word with a character of no piece as [UNK].
    """

    least = 4
    lossy = True

    def fit(self, texts: Sequence[str], size: int) -> Tokenizer:
        normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=False)
        fixed, unknown = [END, "[UNK]"], "[UNK]"
        found = [piece for piece in wordpieces(texts, size - len(fixed), normalizer) if piece not in fixed]
        model = models.WordPiece({piece: i for i, piece in enumerate([*fixed, *found])}, unk_token=unknown)
        tokenizer = Tokenizer(model)
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        return tokenizer
