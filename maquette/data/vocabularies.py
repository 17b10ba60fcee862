"""Tokenizers from the files the hub publishes them as: tokenizer.json, CLIP's vocab.json and merges.txt, T5's spiece.model.

Knows those layouts and what each says of its special symbols; not how long a text may be, nor who reads the symbols.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from maquette.data.errors import DataError

BEGIN, END = "<|startoftext|>", "<|endoftext|>"  # CLIP's
# A word, a digit, a run of marks or an English ending (Radford 2021's code).
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CLIP = {"unk_token": END, "bos_token": BEGIN, "eos_token": END, "pad_token": END}
_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_ADVICE = (
    "with transformers and sentencepiece, AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes a tokenizer.json, "
    "which is read"
)
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read(folder: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a folder, and what its tokenizer_config.json says, special symbols as plain strings.

    Raises:
        DataError: the folder holds none of the known layouts, or one with what is not read here.
    """
    said, known = config_of(folder)
    if (folder / "tokenizer.json").is_file():
        file = folder / "tokenizer.json"
        tokenizer, named = _made(file, lambda: Tokenizer.from_file(str(file))), {}
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        named = {**_CLIP, **{name: content_of(said[name]) for name in _CLIP if said.get(name)}}
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [(pair[0], pair[1]) for line in lines if not line.startswith("#version") and len(pair := line.split()) == 2]
        tokenizer = clip(object_of(folder / "vocab.json"), merges, named)
    elif (folder / "spiece.model").is_file():
        tokenizer, named = pieces((folder / "spiece.model").read_bytes(), int(said.get("extra_ids", 100))), _T5
    else:
        found = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no folder"
        raise DataError(
            f"{folder} holds no tokenizer: neither tokenizer.json, nor vocab.json and merges.txt, nor spiece.model ({found})"
        )
    for name, given in named.items():
        said[name] = said.get(name) or given
    _add(tokenizer, [_symbol(known.get(content_of(one), one), content_of(one) in known) for one in _special(said, known)])
    if not known and (folder / "added_tokens.json").is_file():
        more = object_of(folder / "added_tokens.json")
        _add(tokenizer, [AddedToken(one, special=False) for one in sorted(more, key=lambda one: more[one])])
    return tokenizer, {**said, **{name: content_of(said[name]) for name in NAMED if said.get(name)}}


def config_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a folder's files say of its tokenizer, and its added symbols by their text."""
    said = object_of(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    known = {content_of(one): one for one in (said.get("added_tokens_decoder") or {}).values()}
    if not known and (folder / "special_tokens_map.json").is_file():  # an older layout, where this file has the last word
        said |= object_of(folder / "special_tokens_map.json")
    return said, known


def clip(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], named: Mapping[str, str] = _CLIP) -> Tokenizer:
    """CLIP's byte-level byte pairs: text in lower case, white space as one space, words ending in </w>.

    Raises:
        DataError: a special symbol that the vocabulary lacks, or a merge into or of symbols that it lacks.
    """
    for one in named.values():
        if one not in vocab:
            raise DataError(f"the vocabulary of {len(vocab)} symbols has no {one!r}")
    ends = {"end_of_word_suffix": "</w>", "continuing_subword_prefix": "", "unk_token": named["unk_token"]}
    tokenizer = _made("merges.txt", lambda: Tokenizer(models.BPE(dict(vocab), list(merges), **ends)))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    end, begin = ((named[name], vocab[named[name]]) for name in ("eos_token", "bos_token"))
    tokenizer.post_processor = processors.RobertaProcessing(end, begin, trim_offsets=False, add_prefix_space=False)
    return tokenizer


def pieces(raw: bytes, extra: int = 100) -> Tokenizer:
    """T5's pieces from a SentencePiece model's bytes, with `extra` sentinels behind them, the last first.

    Raises:
        DataError: not a unigram model, or one that treats white space otherwise than T5's.
    """
    found: list[tuple[str, float]] = []
    kinds: list[int] = []
    trainer: dict[int, Any] = {}
    writes: dict[int, Any] = {}
    try:
        for field, value in _fields(raw):
            if field == 1:
                piece = dict(_fields(value))
                found.append((piece[1].decode(), struct.unpack("<f", piece.get(2, bytes(4)))[0]))
                kinds.append(piece.get(3, 1))
            if field in (2, 3):
                (trainer if field == 2 else writes).update(_fields(value))
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, struct.error) as error:
        raise DataError(f"spiece.model cannot be read as a SentencePiece model: {error}") from None
    unigram, usual = trainer.get(3, 1) == 1, all(writes.get(field, 1) for field in (3, 4, 5))
    if not found or not unigram or not usual:
        what = "has no pieces" if not found else "is not a unigram model" if not unigram else "keeps white space unlike T5's"
        raise DataError(f"spiece.model {what}, which is not read here: {_ADVICE}")
    found += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(extra))]
    unknown, spelt = trainer.get(40, 0), bool(trainer.get(35, 0))
    tokenizer = _made("spiece.model", lambda: Tokenizer(models.Unigram(found, unk_id=unknown, byte_fallback=spelt)))
    if writes.get(2):
        tokenizer.normalizer = _made("spiece.model", lambda: normalizers.Precompiled(writes[2]))
    space = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    end = tokenizer.token_to_id(_T5["eos_token"])
    if end is None:
        raise DataError(f"spiece.model has no {_T5['eos_token']!r}, by which T5's texts end")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", end)]
    )
    own = [
        AddedToken(piece, normalized=False, special=kind == 3)
        for (piece, _), kind in zip(found, kinds, strict=False)
        if kind in (3, 4)
    ]
    _add(tokenizer, own + [AddedToken(f"<extra_id_{i}>", special=True) for i in reversed(range(extra))])
    return tokenizer


def _made(file: str | Path, make: Callable[[], Any]) -> Any:
    """What `make` makes of a file."""
    try:
        return make()
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{file} cannot be read as a tokenizer: {error}") from None


def object_of(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds a {type(found).__name__}, not an object")
    return found


def content_of(one: Any) -> str:
    """A special symbol's text; files hold it bare or with flags."""
    if isinstance(one, Mapping) and "content" not in one:
        raise DataError(f"a special symbol without its 'content': {dict(one)}")
    return str(one["content"] if isinstance(one, Mapping) else one)


def _special(said: Mapping[str, Any], known: Mapping[str, Any]) -> list[Any]:
    """Every symbol that is matched before text is split, as the files hold it."""
    more = said.get("extra_special_tokens") or said.get("additional_special_tokens") or []
    return [
        *known.values(),
        *(said[name] for name in NAMED if said.get(name)),
        *(more.values() if isinstance(more, dict) else more),
    ]


def _symbol(one: Any, known: bool) -> AddedToken:
    if not isinstance(one, Mapping):
        return AddedToken(one, special=True)
    flags = {name: bool(one[name]) for name in ("lstrip", "rstrip", "normalized", "single_word") if name in one}
    return AddedToken(one["content"], special=bool(one.get("special")) if known else True, **flags)


def _add(tokenizer: Tokenizer, symbols: Sequence[AddedToken]) -> None:
    """Add those that the tokenizer does not match already."""
    there = {one.content for one in tokenizer.get_added_tokens_decoder().values()}
    for one in symbols:
        if one.content not in there:
            there.add(one.content)
            tokenizer.add_tokens([one])


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protobuf message: whole numbers, or the bytes of anything else."""
    at = 0
    while at < len(raw):
        key, at = _whole(raw, at)
        match key & 7:
            case 0:
                value, at = _whole(raw, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _whole(raw, at)
            case 5:
                size = 4
            case kind:
                raise ValueError(f"a field of kind {kind} at byte {at}")
        if at + size > len(raw):
            raise ValueError(f"it ends within a field, at byte {len(raw)}")
        yield key >> 3, raw[at : at + size]
        at += size


def _whole(raw: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while shift < 70:
        value |= (raw[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if raw[at - 1] < 128:
            return value, at
    raise ValueError(f"a number of more than 64 bits at byte {at - 10}")
