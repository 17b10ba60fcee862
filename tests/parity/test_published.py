"""Published tokenizers as codecs: the same symbols and texts as transformers' AutoTokenizer, and what begins and ends a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from maquette.codecs.published import Published
from maquette.contracts import IGNORE
from maquette.data.errors import DataError

transformers = pytest.importorskip("transformers", reason="the reference is transformers' tokenizers")
CORPUS = ["a small red circle on grey, the cat sat on the mat!", "l'été à Zürich; don't we'll 12 345 tests", "日本語 text 😀"] * 9
ODD = [
    "",
    " ",
    "a cat",
    "A CAT sat on the MAT!",
    "  leading and  double   spaces ",
    "e\u0301te\u0301 and \ufb01ne, İstanbul, STRASSE",
    "日本語のテキスト 😀👩\u200d👩\u200d👧🏳️\u200d🌈",
    "two\nlines\tand\r\n\r\na tab",
    "\u00a0no break\u3000wide\u200bnone \u2581 ▁x",
    "don't , we'll . I'm ; it's ' quoted ' ?",
    "<s> and </s>, <|endoftext|> and [SEP][MASK] <extra_id_0> <pad><unk> x",
    "\x01\x7f control",
    "word " * 300,
]


def gpt2() -> tuple[Tokenizer, dict[str, Any], dict[str, Any]]:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    )
    made.add_special_tokens([end])
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": end, "eos_token": end, "unk_token": end, "model_max_length": 64}
    symbol = made.token_to_id(end)
    return made, config, {"generation_config.json": {"bos_token_id": symbol, "eos_token_id": symbol}}


def llama() -> tuple[Tokenizer, dict[str, Any], dict[str, Any]]:
    """Byte fallback, spaces as U+2581, a beginning put before every text, and two symbols that end one."""
    learned = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learned.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    ascii_only = [text for text in CORPUS if text.isascii()]
    learned.train_from_iterator(
        ascii_only, trainers.BpeTrainer(vocab_size=420, special_tokens=fixed, show_progress=False, max_token_length=12)
    )
    model = json.loads(learned.to_str())["model"]
    made = Tokenizer(
        models.BPE(model["vocab"], [tuple(p) for p in model["merges"]], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = learned.normalizer
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>", "<|eot_id|>"])
    made.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    ends = [made.token_to_id("</s>"), made.token_to_id("<|eot_id|>")]
    more = {"generation_config.json": {"eos_token_id": ends}, "config.json": {"max_position_embeddings": 128}}
    return made, config, more


def bert() -> tuple[Tokenizer, dict[str, Any], dict[str, Any]]:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False))
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    config = {"tokenizer_class": "BertTokenizer", **dict(zip(names, special, strict=True)), "do_lower_case": True}
    return made, {**config, "clean_up_tokenization_spaces": True, "model_max_length": 512}, {}


def t5() -> tuple[Tokenizer, dict[str, Any], dict[str, Any]]:
    learned = Tokenizer(models.Unigram())
    learned.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<pad>", "</s>", "<unk>"]
    learned.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    vocab = [(piece, score) for piece, score in json.loads(learned.to_str())["model"]["vocab"]]
    sentinels = [f"<extra_id_{i}>" for i in range(5)]
    made = Tokenizer(models.Unigram([*vocab, *((name, 0.0) for name in sentinels[::-1])], unk_id=2))
    made.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always", split=True)]
    )
    made.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    made.add_special_tokens([*special, *sentinels])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    more = {"config.json": {"decoder_start_token_id": 0, "eos_token_id": 1, "n_positions": 512}}
    return made, {**config, "additional_special_tokens": sentinels}, more


KINDS: dict[str, Callable[[], tuple[Tokenizer, dict[str, Any], dict[str, Any]]]] = {
    "gpt2": gpt2,
    "llama": llama,
    "bert": bert,
    "t5": t5,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for name, make in KINDS.items():
        folder = made[name] = tmp_path_factory.mktemp(name)
        tokenizer, config, more = make()
        tokenizer.save(str(folder / "tokenizer.json"))
        for file, said in {"tokenizer_config.json": config, **more}.items():
            (folder / file).write_text(json.dumps(said))
    return made


@pytest.mark.parametrize("name", KINDS)
def test_symbols_and_texts_are_transformers(folders, name):
    ours, theirs = Published.read(folders[name], 32), transformers.AutoTokenizer.from_pretrained(folders[name])
    plain, marked = ours.tokenize(ODD), ours.tokenize(ODD, special=True)
    for text, bare, read in zip(ODD, plain, marked, strict=True):
        assert read == theirs(text, add_special_tokens=False)["input_ids"], text
        assert bare == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"], text
        assert [*ours.before, *read, *ours.after] == theirs(text)["input_ids"], text
        for ids in (read, bare, [*ours.before, *read, *ours.after]):
            assert ours.join(ids) == theirs.decode(ids, skip_special_tokens=True), text
            assert ours.join(ids, special=True) == theirs.decode(ids), text
    assert ours.pad == theirs.pad_token_id and ours.vocab == len(theirs)
    assert {theirs.convert_tokens_to_ids(one) for one in theirs.all_special_tokens} <= set(ours.special.values())
    assert all(theirs.convert_tokens_to_ids(text) == symbol for text, symbol in ours.special.items())


def test_what_begins_and_ends_a_text(folders):
    found = {name: Published.read(folder) for name, folder in folders.items()}
    at = {name: codec.special for name, codec in found.items()}
    gpt2, llama, bert, t5 = found.values()
    assert gpt2.ends == (gpt2.bos,) == (at["gpt2"]["<|endoftext|>"],)
    assert (llama.bos, llama.ends) == (1, (2, at["llama"]["<|eot_id|>"]))
    assert (bert.bos, bert.ends, bert.special["[MASK]"]) == (2, (3,), 4)
    assert (t5.bos, t5.ends) == (0, (1,)) and t5.special["<extra_id_0>"] == t5.vocab - 1
    assert [codec.before for codec in found.values()] == [(), (1,), (2,), ()]
    assert [codec.after for codec in found.values()] == [(), (), (3,), (1,)]
    assert [codec.length for codec in found.values()] == [64, 128, 512, 512]
    assert [codec.begins for codec in found.values()] == [False, True, True, True]
    assert [codec.lossy for codec in found.values()] == [False, True, True, True]


def test_a_row_ends_at_any_of_its_ends(folders):
    codec = Published.read(folders["llama"])
    ids = codec.tokenize(["a cat"])[0]
    rows = [[*ids, end, *ids] for end in codec.ends] + [[*ids, *[IGNORE] * (len(ids) + 1)]]
    assert codec.decode(torch.tensor(rows)) == ["a cat"] * 3
    assert codec.decode(torch.tensor([[codec.bos, *ids]])) == ["a cat"]
    think = codec.tokenize(["<think>"])[0]
    assert len(think) == 1 and codec.join(think) == "<think>"  # a symbol of its own, and yet text


def test_a_masked_model_reads_whole_texts_and_what_is_hidden_is_open(folders):
    codec = Published.read(folders["bert"], whole=True)
    theirs = transformers.AutoTokenizer.from_pretrained(folders["bert"])
    code = codec.encode(["a cat [MASK] on the mat", "the [MASK]"])
    want = theirs(["a cat [MASK] on the mat", "the [MASK]"])["input_ids"]
    for row, ids in zip(code.tolist(), want, strict=True):
        assert row[: len(ids)] == [IGNORE if symbol == codec.mask else symbol for symbol in ids]
    filled = torch.where(code == IGNORE, codec.tokenize(["cat"])[0][0], code)
    filled[1, len(want[1]) :] = IGNORE
    assert codec.decode(filled) == ["a cat cat on the mat", "the cat"]
    with pytest.raises(DataError, match="names no mask_token: what is hidden could not be told"):
        Published.read(folders["gpt2"], whole=True)


def test_a_network_may_have_more_symbols_and_none_fewer(folders):
    codec = Published.read(folders["gpt2"], vocab=1024)
    assert codec.vocab == 1024
    with pytest.raises(DataError, match=r"the tokenizer has \d+ symbols, and the network 100"):
        Published.read(folders["gpt2"], vocab=100)


def test_what_was_read_travels_and_is_copied(folders):
    import copy

    codec = Published.read(folders["gpt2"])
    other = Published.read(folders["gpt2"])
    other.load_state_dict(codec.state_dict())
    assert copy.deepcopy(other).tokenize(ODD) == codec.tokenize(ODD)


@pytest.mark.parametrize(
    ("file", "said", "match"),
    [
        ("tokenizer_config.json", {"bos_token": "<begin>", "model_max_length": 8}, None),
        (
            "generation_config.json",
            {"eos_token_id": [1, 999_999]},
            r"symbol 999999 begins, ends or hides texts",
        ),
        ("tokenizer_config.json", {}, "do not say how long a text may be; give a length"),
        ("tokenizer_config.json", {"model_max_length": 8}, "no symbol that begins or ends a text"),
        ("tokenizer.json", {"model": 3}, "cannot be read as a tokenizer"),
        ("generation_config.json", [1], "holds a list, not an object"),
    ],
)
def test_bad_folders_are_refused(folders, tmp_path, file, said, match):
    for path in folders["gpt2"].iterdir():
        if path.name != "generation_config.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_text(json.dumps(said))
    if match is None:  # the hub's files may name symbols that are yet to be added
        assert Published.read(tmp_path).bos == Published.read(folders["gpt2"]).vocab
        return
    with pytest.raises(DataError, match=match):
        Published.read(tmp_path)


def test_a_folder_without_a_tokenizer_says_what_it_holds(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no tokenizer.*model.safetensors"):
        Published.read(tmp_path)
