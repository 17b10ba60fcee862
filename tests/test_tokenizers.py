"""Tokenizers learned from the user's text: what they lose, that they come out the same every time, and their special symbols."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.codecs.text import BPE, END, Bytes, Pieces, Text, Unigram, WordPiece
from maquette.contracts import IGNORE
from maquette.data import Split, pieces
from maquette.evaluate import choose, judge
from maquette.metrics.evidence import Evidence
from maquette.recipes import UnknownName
from maquette.recipes._causal import tokenizer_of
from maquette.recipes.language import gpt

TEXTS = ["def add(a, b):\n    return a + b\n", "class A:\n    x = 1\n\n    def f(self):\n        return self.x\n"] * 20
TEXTS += [f"the {a} cat and the {b} dogs were reading the words of {a}" for a in ("old", "new") for b in ("big", "small", "red")]
SPECIAL = ("<mask>", "<extra_id_0>", "<extra_id_1>")
LEARNED = (BPE, Unigram, WordPiece)


@pytest.fixture(scope="module")
def codecs() -> dict[str, Text]:
    made: list[Text] = [cls(400, 16, SPECIAL) for cls in LEARNED]
    for codec in made:
        assert isinstance(codec, Pieces)
        codec.learn(TEXTS)
    return {type(codec).__name__: codec for codec in [*made, Bytes(16, SPECIAL)]}


_shared: dict[str, Text] = {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_every_text_survives_unigram(texts):
    if not _shared:
        _shared["codec"] = Unigram(330)
        _shared["codec"].learn(TEXTS)
    codec = _shared["codec"]
    assert codec.decode(codec.encode(texts)) == texts


@pytest.mark.parametrize("name", ["Unigram", "BPE", "Bytes"])
@pytest.mark.parametrize(
    "text", [END, "<0x41>", "a<0x0A>b", "\u2581x \u2581", "<mask>", "\ufffd\x00", "\r\n\t \u2028", " " * 50, ""]
)
def test_text_that_looks_like_symbols_is_text(codecs, name, text):
    codec = codecs[name]
    assert codec.decode(codec.encode([text])) == [text] and not codec.lossy
    assert not set(codec.tokenize([text])[0]) & set(codec.special.values())


def test_wordpiece_says_that_it_loses(codecs):
    codec = codecs["WordPiece"]
    assert codec.lossy
    assert codec.decode(codec.encode(["the  old\ncat, and  dogs.", "the \u4e2d cat"])) == [
        "the old cat, and dogs.",
        "the [UNK] cat",
    ]
    words = codec.tokenize(["return"])[0]
    assert len(words) == 1 and codec.tokenize(["returned"])[0][0] == words[0]  # the longest piece first


@pytest.mark.parametrize("name", ["BPE", "Unigram", "WordPiece"])
def test_pieces_shorten_and_what_was_learned_travels(codecs, name):
    codec = codecs[name]
    assert isinstance(codec, Pieces)
    rows = codec.tokenize(TEXTS)
    assert sum(map(len, rows)) < sum(map(len, TEXTS)) / 2.5
    assert max(map(max, rows)) < codec.plain and 0 not in set(itertools.chain(*rows))
    fresh = type(codec)(400, 16, SPECIAL)
    with pytest.raises(ValueError, match=f"{name} has not learned from a corpus"):
        fresh.encode(["x"])
    fresh.load_state_dict(codec.state_dict())
    assert fresh.tokenize(TEXTS) == rows


# -- special symbols -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BPE", "Unigram", "WordPiece", "Bytes"])
def test_special_symbols_are_the_last_and_read_only_when_asked_for(codecs, name):
    codec = codecs[name]
    assert [codec.special[each] for each in SPECIAL] == [codec.plain, codec.plain + 1, codec.plain + 2]
    assert codec.plain + 3 == codec.vocab and codec.special[END] == codec.bos
    said = f"the cat<extra_id_1>{END}dogs<mask><mask>"
    found = codec.tokenize([said, "", "<mask>"], special=True)
    assert [s for s in found[0] if s in codec.special.values()] == [codec.plain + 2, codec.bos, codec.plain, codec.plain]
    assert found[1:] == [[], [codec.plain]]
    assert codec.join(found[0], special=True) == said and codec.join(found[0]).replace(" ", "") == "thecatdogs"
    code = torch.tensor([[*codec.tokenize(["the cat"])[0], codec.plain, codec.bos, codec.plain, IGNORE]])
    assert codec.decode(code) == ["the cat"] and codec.ends == (codec.bos,)


def test_without_special_symbols_nothing_has_changed():
    plain, more = BPE(320, 16), BPE(323, 16, SPECIAL)
    for codec in (plain, more):
        codec.learn(TEXTS)
    assert torch.equal(plain.learned, more.learned) and plain.plain == plain.vocab


@pytest.mark.parametrize("names", [("a", "a"), ("",), (END,), "<mask>"])
def test_bad_names_are_refused(names):
    with pytest.raises(ValueError, match="named by different texts"):
        Bytes(16, names)


@pytest.mark.parametrize(("cls", "low"), [(BPE, 260), (Unigram, 261), (WordPiece, 7)])
def test_bad_vocabularies_are_refused(cls, low):
    with pytest.raises(ValueError, match=f"vocab is {low} .. 1048576, not {low - 1}; nearest is {low}"):
        cls(low - 1, 16, SPECIAL)
    codec = cls(low, 16, SPECIAL)
    codec.learn(["ab ab"])
    assert max(codec.tokenize(["ab cd"])[0]) < codec.plain


@pytest.mark.parametrize("name", ["BPE", "Unigram", "WordPiece", "Bytes"])
@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ("one string", "not one string"),
        ([b"x"], "text 0 is a bytes"),
        (["a", "\ud800"], "text 1 is not Unicode"),
    ],
)
def test_what_is_no_text_is_refused(codecs, name, texts, said):
    for special in (False, True):
        with pytest.raises(ValueError, match=said):
            codecs[name].tokenize(texts, special=special)


@pytest.mark.parametrize("cls", LEARNED)
def test_nothing_to_learn_from_is_no_failure(cls):
    for texts in ([], [""], ["x"], ["\0\0"]):
        codec = cls(400)
        codec.learn(texts)
        assert codec.lossy or codec.decode(codec.encode(["new \0 text"])) == ["new \0 text"]


def test_sources_are_learned_from_too():
    rows = Split({"source": ["the quick brown fox"] * 30, "text": ["jumps over the dog"] * 30})
    codec = BPE(300)
    codec.learn(rows)
    assert len(codec.tokenize([" quick"])[0]) < 4 and len(codec.tokenize([" jumps"])[0]) < 5


# -- learning --------------------------------------------------------------------------------------------------------


def test_expected_uses_are_those_over_every_cut():
    words, names = ["abab", "ba", "a"], ["a", "b", "ab", "ba", "bab"]
    score, times = np.log(np.array([0.3, 0.2, 0.25, 0.15, 0.1])), np.array([3.0, 2.0, 5.0])
    want, index = np.zeros(5), {name: i for i, name in enumerate(names)}
    best = dict.fromkeys(names, -math.inf)
    for word, often in zip(words, times, strict=True):
        cuts = list(_cuts(word, names))
        chances = np.array([math.exp(sum(score[index[p]] for p in cut)) for cut in cuts])
        for cut, chance in zip(cuts, chances / chances.sum(), strict=True):
            for piece in cut:
                want[index[piece]] += often * chance
    np.testing.assert_allclose(pieces._expected(pieces._Arcs.of(words, index), times, score, 5), want)
    inner = pieces._Arcs.of(names, index)
    found = pieces._otherwise(inner.where(inner.end - inner.start < inner.length[inner.word]), score)
    for name in names:
        others = [sum(score[index[p]] for p in cut) for cut in _cuts(name, names) if cut != [name]]
        best[name] = max(others, default=-math.inf)
    np.testing.assert_allclose(found, [best[name] for name in names])


def _cuts(word: str, names: list[str]):
    if not word:
        yield []
    for name in names:
        if word.startswith(name):
            for rest in _cuts(word[len(name) :], names):
                yield [name, *rest]


def test_unigram_finds_the_words_that_made_the_text():
    """Words strung together without spaces: the pieces found are those words, which merging pairs does not see."""
    rng = np.random.default_rng(0)
    lexicon = ["kato", "remi", "sulo", "vanti", "opera", "zuk"]
    texts = ["".join(rng.choice(lexicon, 3)) for _ in range(400)]
    found = pieces.unigram(texts, 20)
    assert {piece for piece, _ in found[:6]} == set(lexicon)
    assert all(a >= b for (_, a), (_, b) in itertools.pairwise(found))


def test_unigram_codes_as_short_as_the_library_learns_to(monkeypatch):
    tokenizers = pytest.importorskip("tokenizers")
    import maquette.data.python_source as source

    texts = [text for path, text in source.sources()[0].items() if path < "ac"]
    ours = Unigram(257 + 300)
    ours.learn(texts)
    theirs = tokenizers.Tokenizer(tokenizers.models.Unigram())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pieces.PATTERN), "isolated")
    trainer = tokenizers.trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    theirs.train_from_iterator(texts, trainer)
    short, long = sum(map(len, ours.tokenize(texts))), sum(len(found.ids) for found in theirs.encode_batch_fast(texts))
    assert short <= 1.01 * long


def test_other_processes_learn_the_same(codecs):
    code = (
        "import hashlib, json, sys; from maquette.codecs.text import BPE, Unigram, WordPiece\n"
        "for cls in (BPE, Unigram, WordPiece):\n"
        "    c = cls(400, 16, ('a', 'b', 'c')); c.learn(json.load(open(sys.argv[1])))\n"
        "    print(hashlib.sha256(c.learned.numpy().tobytes()).hexdigest())"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(TEXTS, file)
        file.flush()
        env = {**os.environ, "PYTHONHASHSEED": "7"}
        done = subprocess.run([sys.executable, "-c", code, file.name], capture_output=True, text=True, check=True, env=env)
    here = [hashlib.sha256(codecs[cls.__name__].learned.numpy().tobytes()).hexdigest() for cls in LEARNED]
    assert done.stdout.split() == here


# -- the recipe ------------------------------------------------------------------------------------------------------


def test_gpt_takes_a_tokenizer_by_name(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    (tmp_path / "b.txt").write_text("\n".join(TEXTS[::-1]))
    for name, cls in {"bpe": BPE, "unigram": Unigram, "wordpiece": WordPiece, "bytes": Bytes}.items():
        assert type(gpt(data=str(tmp_path), depth=1, context=8, tokenizer=name).system.codec) is cls
    assert type(tokenizer_of("gpt", "unigram", 0, 8)) is Bytes
    with pytest.raises(UnknownName, match=r"unknown tokenizer of gpt 'unigramm'. Did you mean 'unigram'"):
        gpt(data=str(tmp_path), tokenizer="unigramm")


@pytest.mark.parametrize(("end", "whole"), [("", True), ("\n", False)])
def test_what_a_tokenizer_loses_is_not_had_for_no_bits(tmp_path, end, whole):
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(
            f"the cat saw {'the old dog and ' * (i % 7 + 1)}{'red' if i % 2 else 'blue'} birds{end}"
        )
    experiment = gpt(data=str(tmp_path), depth=1, context=8, vocab=200, tokenizer="wordpiece")
    experiment.system.learn(experiment.data.train)
    told = judge(Evidence(experiment.data, experiment.system), choose(["bytes"]))
    if whole:
        assert told["metrics"]["bits/byte"].value > 0
    else:
        assert "held-out texts do not come back from the tokenizer; what it loses costs no bits" in told["skipped"]["bytes"]
