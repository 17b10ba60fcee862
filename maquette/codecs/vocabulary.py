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
from maquette.data.chats import Chat, Message, templates
from maquette.data.errors import DataError
from maquette.data.tokens import LONGEST, Learned
from maquette.data.vocabularies import NAMED, object_of, read

_TURN = threading.Lock()  # a tokenizer is told how to take special symbols before each use
_PROBE = "  Ein Café \u2581 n't , ok .\n\t\u65e5\U0001f600 \ufb01<s>\x00 "  # what tokenizers are known to lose
_GUARD = "\uf8ff"  # private use: no text's own
_SPACED = {f" {mark}": mark for mark in ".?!,"} | {" ' ": "'"} | {f" {end}": end for end in ("n't", "'m", "'s", "'ve", "'re")}
_FILES = ("generation_config.json", "config.json")  # the first to say something is right
_PLACES = ("max_position_embeddings", "n_positions")


class Vocabulary(Text, Learned):
    """list[str] <-> int64[B,T] of a published tokenizer. `before` and `after` are what it puts around a text by itself.

    `bos` is what a text begins with as networks see it: the decoder's start where the folder names one, else the beginning or the
    class symbol, else an end. `ends` are all that the folder names. `lossy` where spaces or capitals do not come back.

    Args:
        tokenizer: as the file holds it.
        length: symbols of context.
        named: what the files call special symbols -> their text: {"bos_token": "<s>", "pad_token": "<pad>"}.
        begins: the symbol of the decoder's start; None = as the named ones say.
        ends: symbols that end a text, besides the named one.
        tidy: take spaces from before marks when writing.
        chat: how it writes conversations; None = not at all.

    Raises:
        DataError: a special symbol that the tokenizer lacks, or nothing that a text could begin with.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        length: int,
        named: Mapping[str, str] | None = None,
        begins: int | None = None,
        ends: Sequence[int] = (),
        tidy: bool = False,
        chat: Chat | None = None,
    ):
        named = dict(named or {})
        ids: dict[str, Any] = {name: tokenizer.token_to_id(text) for name, text in named.items()}
        for name, symbol in ids.items():
            if symbol is None:
                raise DataError(f"{name} is {named[name]!r}, which the tokenizer's {tokenizer.get_vocab_size()} symbols lack")
        known = tokenizer.get_vocab(with_added_tokens=True)
        vocab = max(known.values(), default=-1) + 1
        for symbol in [*ends, *([] if begins is None else [begins])]:
            if not 0 <= symbol < vocab:
                raise DataError(f"a text begins or ends with symbol {symbol}; the tokenizer has 0 .. {vocab - 1}")
        last = [ids[name] for name in ("eos_token", "sep_token") if name in ids][:1]
        every: tuple[int, ...] = tuple(dict.fromkeys([*last, *ends]))
        first = [begins, *(ids.get(name) for name in ("bos_token", "cls_token")), *every]
        bos = next((symbol for symbol in first if symbol is not None), None)
        if bos is None:
            raise DataError("the tokenizer's files name no symbol that begins or ends a text")
        super().__init__(length, vocab, bos)
        self.keep(tokenizer)
        self.named, self._ends, self.chat = named, every, chat
        self.pad, self.tidy = ids.get("pad_token"), tidy and not isinstance(tokenizer.model, models.BPE)
        marked = {one.content: symbol for symbol, one in tokenizer.get_added_tokens_decoder().items() if one.special}
        self.special = {**marked, **{text: ids[name] for name, text in named.items()}}
        self.before, self.after = self._around()
        self.lossy = self.join(self.tokenize([_PROBE])[0]) != _PROBE

    @classmethod
    def read(cls, folder: str | Path, length: int = 0) -> Self:
        """The tokenizer of a folder as the hub publishes models.

        Args:
            length: symbols of context; 0 = as many as the folder says.

        Raises:
            DataError: the folder holds no tokenizer, or does not say how long texts are.
        """
        folder = Path(folder)
        tokenizer, said = read(folder)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        files = [object_of(folder / name) for name in _FILES if (folder / name).is_file()]
        most = int(said.get("model_max_length") or LONGEST)
        if not length and most >= LONGEST:
            most = next((int(file[name]) for file in files for name in _PLACES if file.get(name)), LONGEST)
        if not length and most >= LONGEST:
            raise DataError(f"the files of {folder} do not say how long a text may be; give a length")
        ends = next((_ids(file["eos_token_id"]) for file in files if file.get("eos_token_id") is not None), ())
        begins = next((file["decoder_start_token_id"] for file in files if file.get("decoder_start_token_id") is not None), None)
        named = {name: str(said[name]) for name in NAMED if said.get(name)}
        chat = Chat.read(folder) if "default" in templates(folder) else None
        return cls(tokenizer, length or most, named, begins, ends, bool(said.get("clean_up_tokenization_spaces")), chat)

    @property
    def ends(self) -> tuple[int, ...]:
        return self._ends

    def tokenize(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        with _TURN:
            tokenizer = self.tokenizer
            tokenizer.encode_special_tokens = not special
            return [found.ids for found in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

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
        if self.chat is None:
            raise DataError("this tokenizer came without a chat template: it says nothing of how a conversation is written")
        names = re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))))
        guarded = [[_guarded(message, names) for message in each] for each in conversations]
        rows = []
        for text in self.chat.render(guarded, reply=reply, tools=tools, more=more):
            pieces = text.split(_GUARD)  # every second one is what a message spells
            said = [self.tokenize([piece], special=not i % 2)[0] for i, piece in enumerate(pieces) if piece]
            rows.append([symbol for part in said for symbol in part])
        return rows

    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the tokenizer's own template puts before and after a text."""
        bare = self.tokenize(["a"])[0]
        whole = self.tokenizer.encode("a").ids
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), len(whole))
        return tuple(whole[:at]), tuple(whole[at + len(bare) :])


def _guarded(value: Any, names: re.Pattern[str]) -> Any:
    """What people wrote, with guards around all that spells a special symbol."""
    if isinstance(value, str):
        return names.sub(lambda found: f"{_GUARD}{found[0]}{_GUARD}", value.replace(_GUARD, ""))
    if isinstance(value, Mapping):
        return {key: _guarded(each, names) if key != "role" else each for key, each in value.items()}
    return [_guarded(each, names) for each in value] if isinstance(value, list | tuple) else value


def _ids(said: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in (said if isinstance(said, list) else [said]))
