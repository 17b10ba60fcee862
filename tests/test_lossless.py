"""Lossless coding: whole numbers there and back, files as large as the model says, nothing but the truth comes out."""

from __future__ import annotations

import json
import math

import apart
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maquette import api, lossless
from maquette.arithmetic import Decoder, Encoder
from maquette.codecs.text import Bytes
from maquette.contracts import IGNORE
from maquette.data import DataError
from maquette.lossless import Unreadable, pack, tables, unpack
from maquette.networks import presets
from maquette.networks.transformer import Transformer
from maquette.nn.lora import Adapted, matched
from maquette.objectives.likelihood import NextToken
from maquette.runs import build
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System

pytestmark = pytest.mark.usefixtures("narrow")

# -- the coder -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=6), max_size=60), st.randoms())
def test_whole_numbers_come_back_and_cost_what_their_frequencies_say(tables, random):
    """Any frequencies, any symbols: out what went in, in at most 8 bits and 1 in 10,000 more than the entropy of the symbols."""
    symbols = [random.choices(range(len(t)), weights=random.choice([t, None]))[0] for t in tables]
    coder, bits = Encoder(), 0.0
    for table, symbol in zip(tables, symbols, strict=True):
        coder.put(sum(table[:symbol]), table[symbol], sum(table))
        bits -= math.log2(table[symbol] / sum(table))
    data = coder.finish()
    assert len(data) * 8 <= bits * 1.0001 + 8
    decoder = Decoder(data)
    for table, symbol in zip(tables, symbols, strict=True):
        edges = np.cumsum([0, *table])
        found = int(edges.searchsorted(decoder.look(sum(table)), "right")) - 1
        assert found == symbol
        decoder.take(int(edges[found]), table[found])


def test_a_carry_runs_back_through_bytes_of_255():
    """The top symbol of a wide total, again and again, keeps the interval's beginning at the edge of a carry."""
    total = (1 << 40) - 1
    for tail in ([(0, 1)], [(total - 1, 1)], [(total // 2, 1)]):
        symbols = [(total - 1, 1)] * 9 + [(1, total - 1)] * 50 + tail
        coder = Encoder()
        for first, frequency in symbols:
            coder.put(first, frequency, total)
        decoder = Decoder(coder.finish())
        for first, frequency in symbols:
            assert first <= decoder.look(total) < first + frequency
            decoder.take(first, frequency)


@pytest.mark.parametrize("symbol", [(0, 0, 5), (5, 1, 5), (-1, 1, 5), (0, 1, 1 << 41)])
def test_a_symbol_outside_its_total_is_refused(symbol):
    with pytest.raises(ValueError, match="is not one of a total"):
        Encoder().put(*symbol)


def test_frequencies_are_whole_never_zero_and_follow_the_logits():
    logits = torch.tensor([[0.0, 1.0, -90.0], [5.0, 5.0, 5.0]])
    widths = np.diff(tables(logits))
    assert widths.min() == 1 and np.allclose(widths / widths.sum(1, keepdims=True), logits.softmax(-1), atol=1e-6)
    with pytest.raises(Unreadable, match="not finite"):
        tables(torch.tensor([[0.0, math.nan]]))


# -- with models -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pixelcnn"
    return api.train("pixelcnn", depth=2, steps=12, batch=32, seed=1, out=folder, quiet=True)


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(30):
        (folder / f"{i}.txt").write_text("".join(f"Line {j} of file {i}: the quick brown fox.\n" for j in range(40)))
    arguments = {"data": str(folder), "depth": 1, "vocab": 300, "context": 32}
    return api.train("gpt", steps=10, compile=False, out=folder / "run", quiet=True, **arguments)


@pytest.mark.parametrize("told", [True, False])
def test_images_come_back_and_cost_what_the_objective_says(digits, told):
    """Within 2 % of -log2 p of the pixels and the label by the objective's own score, header included."""
    held = digits.data.held.rows(torch.arange(0, 360, 2 if told else 12))
    code, rows = digits.system.encode(held), len(held["label"])
    packed = pack(digits.system, code, held if told else None)
    back, about = unpack(digits.system, packed.data)
    assert torch.equal(back, code) and about["label"].shape == (rows,)
    assert torch.equal(about["label"], held["label"]) or not told
    with torch.no_grad():
        nats = digits.system.objective.score(digits.system, {"code": code, **about}, Streams.of(0, rows))
    shares = torch.tensor(digits.facts.shares).double()[about["label"]]
    stated = float((nats.double() - shares.log()).sum()) / math.log(2)
    assert packed.bits == pytest.approx(stated, rel=1e-4)
    assert len(packed.data) * 8 <= stated * (1.02 if told else 1.2) and len(packed.data) * 8 > stated


def test_an_unsaid_label_is_the_likeliest_one(digits):
    held = digits.data.held.rows(torch.arange(8))
    code = digits.system.encode(held)
    own = pack(digits.system, code)
    others = [pack(digits.system, code, {"label": (held["label"] + shift) % 10}) for shift in (0, 1, 5)]
    assert own.bits <= min(other.bits for other in others) + 1e-3 and len({round(o.bits, 2) for o in others}) == 3
    with pytest.raises(Unreadable, match="row 3 is told something that never occurs"):
        pack(digits.system, code, {"label": torch.tensor([1, 2, 3, 77, 1, 1, 1, 1])})


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_none_one_and_a_few_images(digits, rows):
    code = digits.system.encode(digits.data.held.rows(torch.arange(rows)))
    packed = pack(digits.system, code)
    assert torch.equal(unpack(digits.system, packed.data)[0], code) and packed.symbols == rows * 64
    assert len(packed.data) <= packed.bits / 8 + 45


def test_rows_in_several_blocks(digits, monkeypatch):
    monkeypatch.setattr(lossless, "ROWS", 7)
    code = digits.system.encode(digits.data.held.rows(torch.arange(16)))
    assert torch.equal(unpack(digits.system, pack(digits.system, code).data)[0], code)


def test_every_damage_is_refused(digits):
    """Each byte changed, each length but the whole: an error, never other pixels."""
    code = digits.system.encode(digits.data.held.rows(torch.arange(1)))
    data = pack(digits.system, code).data
    for place in range(len(data)):
        with pytest.raises(Unreadable):
            unpack(digits.system, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(Unreadable):
            unpack(digits.system, data[:place])
    with pytest.raises(Unreadable, match="damaged"):
        unpack(digits.system, data + b"\0")


def test_another_model_and_another_arithmetic_are_named(digits, monkeypatch):
    code = digits.system.encode(digits.data.held.rows(torch.arange(2)))
    data = pack(digits.system, code).data
    other, _ = build("pixelcnn", {"depth": 2}, 5)
    with pytest.raises(Unreadable, match="another model"):
        unpack(other.system, data)
    real = lossless.foresee
    shaken = lambda *a: (logits + 1e-6 * torch.arange(logits.shape[-1]) for logits in real(*a))  # noqa: E731
    monkeypatch.setattr(lossless, "foresee", shaken)
    with pytest.raises(Unreadable, match="differently in the last bit"):
        unpack(digits.system, data)
    monkeypatch.setattr(lossless, "probe", lambda *a: data[14:18])
    with pytest.raises(Unreadable, match="not those that went in"):
        unpack(digits.system, data)


@pytest.mark.parametrize(("recipe", "said"), [("flow", "no likelihood"), ("vae", "ELBO"), ("maskgit", "any-order ELBO")])
def test_systems_without_an_exact_likelihood_are_refused(recipe, said):
    experiment, _ = build(recipe, {}, 0)
    with pytest.raises(Unreadable, match=f"exact likelihood of symbols.*{said}"):
        pack(experiment.system, torch.zeros(1, 4, dtype=torch.int64))


def test_the_capability_is_shown():
    assert [name for name in ("pixelcnn", "pixelrnn", "flow", "vae") if api.show(name)["can"]["lossless coding"]] == [
        "pixelcnn",
        "pixelrnn",
    ]


def test_rows_that_end_early_come_last(digits):
    code = torch.zeros(3, 64, dtype=torch.int64)
    code[1, 60:] = IGNORE
    with pytest.raises(Unreadable, match="only the last rows"):
        pack(digits.system, code)
    code[2, :] = IGNORE
    code[1, 60:] = IGNORE
    assert torch.equal(unpack(digits.system, pack(digits.system, code).data)[0], code)


# -- files -----------------------------------------------------------------------------------------------------------------


def test_a_text_longer_than_the_context_comes_back_byte_for_byte(prose, tmp_path, monkeypatch):
    from maquette import parcel

    monkeypatch.setattr(parcel, "LANE", 4)  # several rows, several windows, and a short last row
    raw = "".join(f"Line {j} of file 7: \r\n\tthe quick brown fox, naïve 🦊 <|endoftext|>\n" for j in range(30)).encode()
    (tmp_path / "a.txt").write_bytes(raw)
    told = api.compress(prose.run.path, tmp_path / "a.txt", tmp_path / "a.mq")
    assert told["rows"] > 1 and told["bytes"] == (tmp_path / "a.mq").stat().st_size
    assert told["model_bits"] < told["bytes"] * 8 <= told["model_bits"] * 1.02 + 45 * 8
    api.decompress(prose.run.path, tmp_path / "a.mq", tmp_path / "b.txt")
    assert (tmp_path / "b.txt").read_bytes() == raw


def test_empty_and_undecodable_texts(prose, tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    assert api.compress(prose.run.path, tmp_path / "empty.txt", tmp_path / "e.mq")["symbols"] == 0
    api.decompress(prose.run.path, tmp_path / "e.mq", tmp_path / "e.txt")
    assert (tmp_path / "e.txt").read_bytes() == b""
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    with pytest.raises(DataError, match="not UTF-8 text: byte 3 is 0xff"):
        api.compress(prose.run.path, tmp_path / "bad.txt", tmp_path / "bad.mq")
    assert not (tmp_path / "bad.mq").exists()


def test_pictures_there_and_back_from_the_shell(digits, tmp_path, shell):
    """Written by one process and read by another: a folder of PNG, pixel for pixel."""
    pixels = digits.data.held.columns["image"][:5, 0].numpy()
    (tmp_path / "in").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray((image * (255 / 16)).round().astype(np.uint8)).save(tmp_path / "in" / f"{'ceabd'[i]}.png")
    run = str(digits.run.path)
    told = json.loads(shell("compress", run, str(tmp_path / "in"), str(tmp_path / "out.mq"), "--json").stdout)
    assert told["rows"] == 5 and told["bytes"] <= told["model_bits"] / 8 + 45
    call = ["decompress", run, str(tmp_path / "out.mq"), str(tmp_path / "back")]
    assert apart.ended(apart.begun(apart.say, call, {}, str(tmp_path / "told.txt"))) == 0, (tmp_path / "told.txt").read_text()
    for name, back in zip("abcde", sorted((tmp_path / "back").glob("*.png")), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "in" / f"{name}.png")), np.asarray(Image.open(back)))
    (tmp_path / "cut.mq").write_bytes((tmp_path / "out.mq").read_bytes()[:-3])
    done = shell(*call[:-2], str(tmp_path / "cut.mq"), str(tmp_path / "x"))
    assert done.returncode == 2 and "damaged" in done.stderr and not (tmp_path / "x").exists()


def test_arrays_and_what_they_may_hold(digits, tmp_path):
    batch = digits.sample(3, seed=2)
    api.sample(digits.run.path, 3, seed=2, out=tmp_path / "s.npz")
    api.compress(digits.run.path, tmp_path / "s.npz", tmp_path / "s.mq")
    api.decompress(digits.run.path, tmp_path / "s.mq", tmp_path / "t.npz")
    back = np.load(tmp_path / "t.npz")
    assert np.array_equal(back["image"], batch["image"].numpy()) and np.array_equal(back["label"], batch["label"].numpy())
    for array, said in (
        (np.zeros((2, 1, 9, 8), np.uint8), "are 8x9 with 1 channel; this run's are 8x8 with 1 channel"),
        (np.zeros((2, 3, 8, 8), np.uint8), "8x8 with 3 channels"),
        (np.full((2, 1, 8, 8), 7, np.uint8), "a pixel in .* is 7, which is none of this run's 17 grey levels"),
        (np.zeros((8, 8), np.uint8), "no array 'image' of shape"),
    ):
        np.savez(tmp_path / "bad.npz", image=array)
        with pytest.raises(DataError, match=said):
            api.compress(digits.run.path, tmp_path / "bad.npz", tmp_path / "bad.mq")
    with pytest.raises(DataError, match="3 pictures do not go into one"):
        api.decompress(digits.run.path, tmp_path / "s.mq", tmp_path / "one.png")
    with pytest.raises(DataError, match="nothing at"):
        api.compress(digits.run.path, tmp_path / "missing", tmp_path / "m.mq")
    with pytest.raises(Unreadable, match="no file of"):
        api.decompress(digits.run.path, tmp_path / "s.npz", tmp_path / "out")


def test_an_adapted_model_is_told_by_what_it_adapts_too():
    net = Transformer(257, 32, 1, 2, style=presets.llama(2, 64))
    adapted = Adapted(net, matched(net, ("attention.qkv",)), 2)
    codec = Bytes(8)
    system = System({"main": adapted, "base": net}, NextToken(codec.bos), Autoregressive(), codec, frozen=("base",)).eval()
    packed = pack(system, torch.randint(256, (2, 8))).data
    unpack(system, packed)
    net.embed.weight.data[5] += 1
    with pytest.raises(Unreadable, match="another model"):
        unpack(system, packed)
