"""The hub's tokenizers, in each layout they are published in, give the same symbols as transformers' for any string."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from maquette.data.errors import DataError
from maquette.data.tokens import Tokens
from maquette.data.vocabularies import BEGIN, END

transformers = pytest.importorskip("transformers", reason="the reference is transformers' tokenizers")
CORPUS = ["a small red circle on grey, the cat sat on the mat!", "l'été à Zürich; don't we'll 12 345 tests", "日本語 text 😀"] * 9
ODD = [
    "",
    " ",
    "a cat",
    "A CAT sat on the MAT!",
    "l'été à Zürich",
    "e\u0301te\u0301 and \ufb01ne, İstanbul, STRASSE, ΣΑΣ",
    "日本語のテキスト",
    "😀👩\u200d👩\u200d👧🏳️\u200d🌈",
    "two\nlines\tand\r\n\r\na tab",
    "   spaces   everywhere   ",
    "\u00a0no break\u3000wide\u200bnone",
    "don't, we'll, I'm; it's 'quoted'",
    "12345 6.7e-8 ½ ①",
    f"{END} within {BEGIN.upper()} and {BEGIN}",
    "</s> <pad> <unk> <extra_id_0><extra_id_99> x",
    "a`b``c",
    "!hello! ! world!!",
    "\x01\x7f control",
    "a" * 500,
    "word " * 10_000,
]


@cache
def clip_parts() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary laid out as CLIP's, learned here: "!" first, the two ends last."""
    found = Tokens()
    found.learn(CORPUS, 600)
    model = json.loads(found.tokenizer.to_str())["model"]
    return model["vocab"], [(a, b) for a, b in model["merges"]]


@cache  # learning it again finds others
def t5_pieces() -> list[tuple[str, float]]:
    """Pieces laid out as T5's, learned here."""
    learned = Tokenizer(models.Unigram())
    learned.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<pad>", "</s>", "<unk>"]
    learned.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    return [(piece, score) for piece, score in json.loads(learned.to_str())["model"]["vocab"]]


def older_clip(folder: Path, pad: str, flags: bool) -> None:
    """vocab.json and merges.txt, as Stable Diffusion's text encoders come."""
    vocab, merges = clip_parts()
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    end: Any = {"content": END, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    begin = {**end, "content": BEGIN}
    named = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": pad} if flags else {"pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    config = {"model_max_length": 77, "pad_token": END, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def charsmap() -> bytes:
    """SentencePiece's normalisation rules, one only, "`" -> "'": a double-array trie of 1024 units and its strings."""
    units = [0] * 1024
    units[0] = 256 << 10
    units[256 ^ 0x60] = 0x60 | 1 << 8 | 512 << 10
    units[256 ^ 0x60 ^ 512] = 1 << 31
    return struct.pack("<I", 4096) + struct.pack("<1024I", *units) + b"'\0"


def spiece(pieces: list[tuple[str, float]], **spec: Any) -> bytes:
    """A SentencePiece model's bytes."""
    proto = pytest.importorskip("transformers.utils.sentencepiece_model_pb2_new", reason="protobuf writes the model")
    model = proto.ModelProto()
    for piece, score in pieces:
        kind = {"<pad>": 3, "</s>": 3, "<unk>": 2}.get(piece, 1)
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.unk_id, model.trainer_spec.model_type = 2, spec.get("model_type", 1)
    model.trainer_spec.bos_id = -1  # ten bytes long
    model.normalizer_spec.precompiled_charsmap = charsmap()
    model.normalizer_spec.add_dummy_prefix = spec.get("add_dummy_prefix", True)
    return model.SerializeToString()


def equal(folder: Path, theirs: Any, length: int) -> Tokens:
    ours = Tokens.read(folder, length)
    with torch.no_grad():
        ids, mask = ours(ODD)
    expected = theirs(ODD, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    for text, found, known in zip(ODD, ids.tolist(), expected.input_ids.tolist(), strict=True):
        assert found == known, text[:50]
    assert torch.equal(mask, expected.attention_mask.bool())
    return ours


@pytest.mark.parametrize("flags", [True, False])
@pytest.mark.parametrize("pad", [END, "!"])
def test_clips_older_layout(tmp_path: Path, pad: str, flags: bool) -> None:
    older_clip(tmp_path, pad, flags)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    assert theirs.pad_token == pad
    ours = equal(tmp_path, theirs, 77)
    assert Tokens.read(tmp_path).length == 77
    ids, _ = ours([f"a cat {END}"])
    assert int((ids[0, :4] == theirs.eos_token_id).sum()) == 1  # spelt out, it is the symbol


def test_clips_older_layout_as_saved_again(tmp_path: Path) -> None:
    """tokenizer_config.json with the symbols and their numbers, which then has the last word."""
    older_clip(tmp_path, "!", True)
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
    known = {str(vocab[one]): {"content": one, "normalized": one != "!", **flags} for one in ("!", BEGIN, END)}
    config = {"added_tokens_decoder": known, "bos_token": BEGIN, "eos_token": END, "pad_token": "!", "model_max_length": 77}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": END}))
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    assert theirs.pad_token == "!"
    equal(tmp_path, theirs, 77)


@pytest.mark.parametrize("pad", [END, "!"])
def test_clips_newer_layout(tmp_path: Path, pad: str) -> None:
    vocab, merges = clip_parts()
    theirs = transformers.CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=20)
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    equal(tmp_path, theirs, 20)


@pytest.mark.parametrize("length", [16, 512])
@pytest.mark.parametrize("rules", [None, charsmap()])
def test_t5s_newer_layout(tmp_path: Path, rules: bytes | None, length: int) -> None:
    theirs = transformers.T5Tokenizer(vocab=with_sentinels(), _spm_precompiled_charsmap=rules)
    theirs.save_pretrained(tmp_path)
    equal(tmp_path, theirs, length)


def with_sentinels() -> list[tuple[str, float]]:
    return t5_pieces() + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]


def test_t5s_pieces(tmp_path: Path) -> None:
    """spiece.model alone, which transformers opens with the sentencepiece package only."""
    (tmp_path / "spiece.model").write_bytes(spiece(t5_pieces()))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>", "eos_token": "</s>"}))
    theirs = transformers.T5Tokenizer(vocab=with_sentinels(), _spm_precompiled_charsmap=charsmap())
    ours = equal(tmp_path, theirs, 120)
    ids, mask = ours(["a`b"])
    assert torch.equal(ids, ours(["a'b"])[0]) and ids[0, int(mask.sum()) - 1] == 1 and int(ids[0, -1]) == 0
    assert ours.tokenizer.token_to_id("<extra_id_0>") == len(t5_pieces()) + 99


def test_what_lies_beyond_is_said(tmp_path: Path) -> None:
    older_clip(tmp_path, END, True)
    ours = Tokens.read(tmp_path, 8)
    long = "the cat sat on the mat! Den RED circle, 😀 too"
    rest = ours.unheard(["a cat", "", long])
    assert rest[:2] == ["", ""] and rest[2] and long.endswith(rest[2])
    kept = long[: -len(rest[2])]
    assert ours.unheard([kept]) == [""] and torch.equal(ours([kept])[0], ours([long])[0])


def test_what_was_learned_travels(tmp_path: Path) -> None:
    older_clip(tmp_path, "!", True)
    ours, again = Tokens.read(tmp_path, 9), Tokens()
    again.load_state_dict(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours(ODD), again(ODD), strict=True)) and again.length == 9


def test_a_learned_one_reads_every_string_and_ends_it_once() -> None:
    ours = Tokens(length=24)
    with pytest.raises(ValueError, match="not learned"):
        ours(["a"])
    ours.learn(CORPUS, 800)
    ids, mask = ours([text for text in ODD if END not in text])
    assert int(ids.max()) == 799 and bool((ids[mask] < 800).all())
    assert bool(((ids == 799) & mask).sum(1).eq(1).all()) and bool((ids[:, 0] == 798).all())
    known = ours(["a small red circle on grey"])[1].sum()
    assert known == 8  # six words and two ends


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "holds no tokenizer"),
        ({"tokenizer.json": b"{}"}, "cannot be read"),
        ({"vocab.json": b"[1]", "merges.txt": b""}, "a list, not an object"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b""}, "startoftext|endoftext"),
        ({"vocab.json": json.dumps({BEGIN: 0, END: 1}).encode(), "merges.txt": b"a b"}, "merges.txt cannot be read"),
        ({"tokenizer_config.json": b'{"added_tokens_decoder": {"0": {}}}'}, "without its 'content'"),
        ({"spiece.model": b"\xff" * 40}, "more than 64 bits"),
        ({"spiece.model": b"\x0a\xff"}, "cannot be read as a SentencePiece model"),
        ({"spiece.model": b""}, "has no pieces"),
        ({"spiece.model": "bpe"}, "not a unigram model.*tokenizer.json"),
        ({"spiece.model": "prefix"}, "white space"),
        ({"spiece.model": "good"}, "does not say how long"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    made = {"bpe": {"model_type": 2}, "prefix": {"add_dummy_prefix": False}, "good": {}}
    for name, raw in files.items():
        (tmp_path / name).write_bytes(spiece(t5_pieces(), **made[raw]) if isinstance(raw, str) else raw)
    with pytest.raises(DataError, match=says):
        Tokens.read(tmp_path)


def test_what_is_no_text_is_refused() -> None:
    ours = Tokens()
    ours.learn(CORPUS, 520)
    for wrong, says in [
        ("a cat", "not one string"),
        (["a", 3], "text 1 is a int"),
        (["\ud800"], "lone surrogate at character 0"),
    ]:
        with pytest.raises(ValueError, match=says):
            ours(wrong)
    for vocab, length, says in [(100, 8, "at least 514"), (520, 2, "length is 2")]:
        with pytest.raises(ValueError, match=says):
            Tokens(length=length).learn(CORPUS, vocab)
