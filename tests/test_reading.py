"""What gives t5 its name: a decoder that attends to what an encoder read, and learns to write of it."""

from __future__ import annotations

import json
import re

import pytest
import torch

from maquette import api
from maquette.codecs.text import BPE, Bytes
from maquette.conditioners.reader import Reader
from maquette.contracts import IGNORE, ended
from maquette.data.spans import SENTINELS, hidden
from maquette.networks import presets
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Cross
from maquette.objectives.likelihood import NextToken
from maquette.recipes.reading import t5
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System


def tiny(reads: int = 8) -> System:
    codec = Bytes(6)
    encoder = Transformer(257, 16, 1, 2, out=None, causal=False, style=presets.t5(both=True))
    decoder = Transformer(257, 16, 1, 2, style=presets.t5(both=False), cross=Cross)
    reader = Reader(encoder, codec, reads)
    return System({"main": decoder}, NextToken(codec.bos, whole=6), Autoregressive(temperature=0), codec, reader)


def loud(system: System) -> System:
    torch.manual_seed(0)
    for p in system.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return system.eval()


def test_an_end_stands_behind_every_row_and_what_is_too_long_is_cut():
    code = torch.tensor([[5, 6, 7], [5, IGNORE, IGNORE]])
    assert ended(code, 9, 9).tolist() == [[5, 6, 7, 9], [5, 9, IGNORE, IGNORE]]
    assert ended(code, 9, 2).tolist() == [[5, 6], [5, 9]]


def test_what_is_written_depends_on_what_is_read_and_not_on_the_batch():
    system = loud(tiny())
    texts, sources = ["abc", "abc"], ["one", "two two"]

    def nats(rows: list[int]) -> torch.Tensor:
        batch = {"text": [texts[i] for i in rows], "source": [sources[i] for i in rows]}
        with torch.no_grad():
            return system.objective.score(system, batch, None)

    both = nats([0, 1])
    assert (both[0] - both[1]).abs() > 1e-3
    torch.testing.assert_close(torch.cat([nats([0]), nats([1])]), both, rtol=1e-5, atol=1e-5)
    made = [system.sample(1, about={"source": [source]}, seed=0)["text"] for source in sources]
    assert system.sample(2, about={"source": sources}, seed=0)["text"] == made[0] + made[1]


def test_a_source_is_read_to_its_length_and_what_is_left_out_is_said():
    system = loud(tiny(reads=4))
    reader = system.conditioner
    long, cut = (system.condition({"source": [text]}).tokens for text in ("abcdef", "abc"))
    torch.testing.assert_close(long, cut)
    assert "has 6 symbols, and 3 of them are read" in reader.notes({"source": ["abcdef", "ab"]})[0]
    with pytest.raises(ValueError, match="a list of texts is wanted as 'source'"):
        system.condition({"source": "abc"})


def test_the_codec_is_saved_once():
    names = list(tiny().state_dict())
    assert len(names) == len({*names}) and not any("codec" in name for name in names)


def test_bad_data_and_depths_are_refused():
    with pytest.raises(ValueError, match="has no sources"):
        t5("stdlib_prose")
    with pytest.raises(ValueError, match="no data called"):
        t5("chore")


@pytest.mark.slow
def test_it_learns_to_turn_words_around(tmp_path):
    """By training: the answer is nowhere but in the source."""
    words = [a + b + c for a in "abcd" for b in "abcd" for c in "abcd"]
    rows = [{"source": f"turn {word}", "text": word[::-1]} for word in words]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = {"depth": 2, "vocab": 280, "reads": 12, "writes": 6, "steps": 250, "batch": 16, "bf16": False}
    run = api.train("t5", data=str(tmp_path / "rows.jsonl"), out=tmp_path / "run", quiet=True, **how)
    made = run.system.sample(8, about={"source": [f"turn {word}" for word in words[:8]]})["text"]
    assert sum(text == word[::-1] for text, word in zip(made, words[:8], strict=True)) >= 6
    assert run.sample(2, prompt="turn abc", sampler=Autoregressive(temperature=0))["text"] == ["cba", "cba"]
    assert api.sample(tmp_path / "run", n=1, prompt="turn dab", dials={"temperature": 0})["text"] == ["bad"]


def test_nothing_to_read_is_refused_and_what_is_said_needs_no_example():
    system = loud(tiny())
    with pytest.raises(ValueError, match="was told none: give one, as --prompt"):
        system.sample(1)
    assert system.sample(1, about={"source": ["abc"]})["text"]


@pytest.mark.parametrize("words", [21, 40])
def test_spans_that_were_hidden_make_the_text_whole_again(words):
    text = " ".join(f"w{i}" for i in range(words))
    left, gone = hidden(text)
    spans = dict(zip(re.findall(r"<extra_id_\d+>", gone), re.split(r"\s*<extra_id_\d+>\s*", gone)[1:], strict=True))
    asked = re.findall(r"<extra_id_\d+>", left)
    assert len(asked) == round(words * 0.05) and len(spans) == len(asked) + 1 and spans[SENTINELS[len(asked)]] == ""
    assert sum(len(spans[name].split()) for name in asked) == round(words * 0.15)
    for name in asked:
        left = left.replace(name, spans[name])
    assert left == text and hidden(text) == hidden(text)


def test_a_sentinel_is_one_symbol_where_texts_spell_them():
    codec = BPE(300, 16, SENTINELS)
    codec.learn(["some words to learn from", "and more of them"] * 20)
    code = codec.encode(["some <extra_id_3> words"])
    assert codec.special["<extra_id_3>"] not in code[0].tolist()
    codec.spelt = True
    code = codec.encode(["some <extra_id_3> words"])
    assert (code == codec.special["<extra_id_3>"]).sum() == 1 and codec.decode(code) == ["some <extra_id_3> words"]
