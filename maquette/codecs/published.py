"""Text as the symbols of a published model: a folder's tokenizer.json, and what the files beside it say of its special symbols.

Knows the hub's layout; not which network reads the symbols.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer, models

from maquette.codecs.text import Text
from maquette.contracts import IGNORE, Code
from maquette.data.chats import Chat, Message, templates
from maquette.data.errors import DataError
from maquette.data.tokens import LONGEST, Learned, checked
from maquette.data.vocabularies import NAMED, object_of, read

_TURN = threading.Lock()  # a tokenizer is told how to take special symbols before each use
_PROBE = "  Ein Café \u2581 n't , ok .\n\t\u65e5\U0001f600 \ufb01<s>\x00 "  # what tokenizers are known to lose
_GUARD = "\uf8ff"  # private use: no text's own
_SPACED = {f" {mark}": mark for mark in ".?!,"} | {" ' ": "'"} | {f" {end}": end for end in ("n't", "'m", "'s", "'ve", "'re")}
_FILES = ("generation_config.json", "config.json")  # the first to say something is right
_PLACES = ("max_position_embeddings", "n_positions")


class Published(Text, Learned):
    """list[str] <-> int64[B,T] by a tokenizer that somebody else has learned. It travels in the state dict.

    `before` and `after` are what the tokenizer puts around a text by itself, `lossy` whether spaces or capitals do not come back.
    `tokenize` takes names of special symbols for text unless it is asked; `encode` takes them for symbols, as prompts have them.

    Args:
        tokenizer: as its file holds it.
        length: symbols of context.
        vocab: symbols of the network, which may be more than the tokenizer's; 0 = the tokenizer's.
        bos: that begins a text where nothing else does.
        ends: that end one; none = bos.
        begins: whether `bos` stands before every text, or only where there is no other beginning (GPT-2, Qwen).
        mask: that stands for what is to be written in a text that is whole, with the marks that the tokenizer puts around it, and
            with nothing behind (BERT); None = texts are written on.
        named: what the files call special symbols -> their text: {"bos_token": "<s>", "pad_token": "<pad>"}.
        tidy: take spaces from before marks when writing.
        chat: how it writes conversations; None = not at all.

    Raises:
        DataError: a symbol that the tokenizer lacks, or more symbols than the network has.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        length: int,
        vocab: int = 0,
        *,
        bos: int,
        ends: Sequence[int] = (),
        begins: bool = True,
        mask: int | None = None,
        named: Mapping[str, str] | None = None,
        tidy: bool = False,
        chat: Chat | None = None,
    ):
        own = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if vocab and own > vocab:
            raise DataError(f"the tokenizer has {own} symbols, and the network {vocab}")
        for symbol in (bos, *ends, *(() if mask is None else (mask,))):
            if not 0 <= symbol < (vocab or own):
                raise DataError(f"symbol {symbol} begins, ends or hides texts, they say; there are 0 .. {(vocab or own) - 1}")
        super().__init__(length, vocab or own, bos)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.keep(tokenizer)
        self.named, self.chat = dict(named or {}), chat
        self._ends, self.begins, self.mask, self.whole = tuple(ends) or (bos,), begins, mask, mask is not None
        self.tidy = tidy and not isinstance(tokenizer.model, models.BPE)
        marked = {one.content: symbol for symbol, one in tokenizer.get_added_tokens_decoder().items() if one.special}
        self.special = {**marked, **ids_of(tokenizer, self.named)}
        self.pad = self.special.get(self.named.get("pad_token", ""))
        self.before, self.after = around(tokenizer)
        self.lossy = self.join(self.tokenize([_PROBE])[0]) != _PROBE

    @classmethod
    def read(cls, folder: str | Path, length: int = 0, vocab: int = 0, whole: bool = False) -> Self:
        """The tokenizer of a folder as the hub publishes models.

        A text begins with the decoder's start where the folder names one, else with what the tokenizer puts before it, else with
        the beginning or class symbol, else with an end. Its ends are those that the tokenizer and the configuration name.

        Args:
            length: symbols of context; 0 = as many as the folder says.
            vocab: as above.
            whole: texts are whole, and the mask that the folder names stands for what is to be written.

        Raises:
            DataError: the folder holds no tokenizer, or does not say how long texts are, what begins them, or what hides them.
        """
        folder = Path(folder)
        tokenizer, said = read(folder)
        files = [object_of(folder / name) for name in _FILES if (folder / name).is_file()]
        most = int(said.get("model_max_length") or LONGEST)
        if not length and most >= LONGEST:
            most = next((int(file[name]) for file in files for name in _PLACES if file.get(name)), LONGEST)
        if not length and most >= LONGEST:
            raise DataError(f"the files of {folder} do not say how long a text may be; give a length")
        named = {name: str(said[name]) for name in NAMED if said.get(name)}
        ids = {name: symbol for name, text in named.items() for symbol in ids_of(tokenizer, {name: text}).values()}
        told = next((file["eos_token_id"] for file in files if file.get("eos_token_id") is not None), ())
        last = [ids[name] for name in ("eos_token", "sep_token") if name in ids][:1]
        ends = list(dict.fromkeys([*last, *(told if isinstance(told, list | tuple) else [told])]))
        start = next((file["decoder_start_token_id"] for file in files if file.get("decoder_start_token_id") is not None), None)
        lead = around(tokenizer)[0]
        if len(lead) > 1 and not whole:
            raise DataError(f"the tokenizer of {folder} puts {len(lead)} symbols before a text; one at most is read here")
        first = [start, *lead, *(ids[name] for name in ("bos_token", "cls_token") if name in ids), *ends]
        bos = next((symbol for symbol in first if symbol is not None), None)
        if bos is None:
            raise DataError(f"the files of {folder} name no symbol that begins or ends a text")
        if whole and "mask_token" not in ids:
            raise DataError(f"the tokenizer of {folder} names no mask_token: what is hidden could not be told")
        return cls(
            tokenizer,
            length or most,
            vocab,
            bos=bos,
            ends=ends,
            begins=bool(lead) or start is not None,
            mask=ids["mask_token"] if whole else None,
            named=named,
            tidy=bool(said.get("clean_up_tokenization_spaces")),
            chat=Chat.read(folder) if "default" in templates(folder) else None,
        )

    @property
    def ends(self) -> tuple[int, ...]:
        return self._ends

    @property
    def converses(self) -> bool:
        """Whether it came with a chat template."""
        return self.chat is not None

    def tokenize(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        with _TURN:
            tokenizer = self.tokenizer
            tokenizer.encode_special_tokens = not special
            return [found.ids for found in tokenizer.encode_batch_fast(checked(texts), add_special_tokens=False)]

    def encode(self, data: Sequence[str]) -> Code:
        rows = self.tokenize(data, special=True)
        code = self.filled([[*self.before, *row, *self.after] for row in rows] if self.whole else rows)
        return code if self.mask is None else code.masked_fill(code == self.mask, IGNORE)

    def decode(self, code: Code) -> list[str]:
        """The text of each row up to the first symbol that ends one, or IGNORE; where it is whole, all of it."""
        if not self.whole:
            return super().decode(code)
        return [self.join([symbol for symbol in row if symbol != IGNORE]) for row in code.tolist()]

    def join(self, symbols: Sequence[int], special: bool = False) -> str:
        text = self.tokenizer.decode(list(symbols), skip_special_tokens=not special)
        for spaced, close in _SPACED.items() if self.tidy else ():
            text = text.replace(spaced, close)
        return text

    def converse(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        reply: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> list[list[int]]:
        """Symbols of each conversation as the chat template writes it, its own beginning included; arguments as `Chat.render`'s.

        The template's special symbols are symbols, those that messages spell are text: nobody ends another's turn.

        Raises:
            DataError: there is no template, or it refuses.
        """
        chat, guarded = self._guarded(conversations)
        texts = chat.render(guarded, reply=reply, tools=tools, more=more)
        return [[symbol for symbol, _, _ in self._placed(text)] for text in texts]

    def taught(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> list[tuple[list[int], list[bool]]]:
        """The same without a further answer, and which symbols are answers' (`Chat.marked`): what a model learns to write."""
        chat, guarded = self._guarded(conversations)
        rows = []
        for text, spans in chat.marked(guarded, tools=tools, more=more):
            placed = self._placed(text)
            said = [last > first and any(a <= first and last <= b for a, b in spans) for _, first, last in placed]
            rows.append(([symbol for symbol, _, _ in placed], said))
        return rows

    def _guarded(self, conversations: Sequence[Sequence[Message]]) -> tuple[Chat, list[list[Any]]]:
        """The template, and conversations with guards around all in them that spells a special symbol."""
        if self.chat is None:
            raise DataError("this tokenizer came without a chat template: it says nothing of how a conversation is written")
        names = re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))))
        return self.chat, [[_guarded(message, names) for message in each] for each in conversations]

    def _placed(self, text: str) -> list[tuple[int, int, int]]:
        """(symbol, first character, last + 1) of a text with guards, every second part of which is what a message spells."""
        found, at = [], 0
        for i, piece in enumerate(text.split(_GUARD)):
            with _TURN:
                tokenizer = self.tokenizer
                tokenizer.encode_special_tokens = bool(i % 2)
                read = tokenizer.encode(piece, add_special_tokens=False) if piece else None
            if read is not None:
                found += [(symbol, at + first, at + last) for symbol, (first, last) in zip(read.ids, read.offsets, strict=True)]
            at += len(piece) + len(_GUARD)
        return found


def around(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a tokenizer's own template puts before and after a text."""
    bare, whole = (tokenizer.encode("a", add_special_tokens=marked).ids for marked in (False, True))
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), len(whole))
    return tuple(whole[:at]), tuple(whole[at + len(bare) :])


def ids_of(tokenizer: Tokenizer, named: Mapping[str, str]) -> dict[str, int]:
    """The symbols of named texts.

    Raises:
        DataError: there is none of one.
    """
    found: dict[str, int] = {}
    for name, text in named.items():
        symbol = tokenizer.token_to_id(text)
        if symbol is None:
            raise DataError(f"{name} is {text!r}, which the tokenizer's {tokenizer.get_vocab_size()} symbols lack")
        found[text] = symbol
    return found


def _guarded(value: Any, names: re.Pattern[str]) -> Any:
    """What people wrote, with guards around all that spells a special symbol."""
    if isinstance(value, str):
        return names.sub(lambda found: f"{_GUARD}{found[0]}{_GUARD}", value.replace(_GUARD, ""))
    if isinstance(value, Mapping):
        return {key: _guarded(each, names) if key != "role" else each for key, each in value.items()}
    return [_guarded(each, names) for each in value] if isinstance(value, list | tuple) else value
