"""A decoder stepped natively gives what its network gives: every family, one symbol or several, after rewinding, at any bits."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import maquette
from maquette.codecs.text import Bytes
from maquette.contracts import Condition
from maquette.networks import presets
from maquette.networks.heard import Prefix
from maquette.networks.stepping import Stepping, stepping
from maquette.networks.style import Around, Ends, Style
from maquette.networks.transformer import Transformer
from maquette.nn import native
from maquette.nn.attention import Attention
from maquette.nn.mlp import Plain
from maquette.nn.packed import Packed
from maquette.nn.positions import Alibi
from maquette.objectives.likelihood import NextToken
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.guidance import Guided
from maquette.samplers.writing import Reader
from maquette.system import System

pytestmark = pytest.mark.skipif(not native.built(), reason="nothing compiles here")
LENGTH = 24
STYLES = {
    "small": presets.small(2),
    "gpt2": presets.gpt2(LENGTH),
    "gpt3": presets.gpt3(LENGTH, 7),
    "llama": presets.llama(2, 100),
    "qwen": presets.qwen(2, 24),
    "gemma2": presets.gemma(64, 2, 32, 96, 6),
    "gemma3": presets.gemma(64, 2, 32, 96, 6, third=True),
    "t5": presets.t5(False, width=64),
    "alibi": Style(positions=Alibi, feed=partial(Plain, act=lambda x: nn.functional.relu(x).square())),
    "sums": Style(norm=nn.LayerNorm, around=Around(before=False, total=True), ends=Ends(bias=True, last=False, out_scale=0.3)),
    "unordered": Style(positions=None, attention=partial(Attention, scale=0.3)),
}


def network(style: Style, **more) -> Transformer:
    torch.manual_seed(0)
    net = Transformer(101, 64, 3, 4, style=style, **more).eval()
    for p in net.parameters():
        nn.init.normal_(p, 0 if p.dim() == 2 else 0.5, 0.08 if p.dim() == 2 else 0.2)
    return net


def symbols(rows: int, length: int = LENGTH) -> Tensor:
    return torch.randint(101, (rows, length), generator=torch.Generator().manual_seed(1))


def walked(net, x: Tensor, each: int, first: int = 3, cond: Condition | None = None) -> Tensor:
    """Logits of x, `each` symbols at a time after the first ones."""
    state = net.begin(*x.shape)
    with torch.no_grad():
        found = [net(x[:, :first], state=state, cond=cond)]
        found += [net(x[:, i : i + each], state=state, cond=cond) for i in range(first, x.shape[1], each)]
    return torch.cat([part.float() for part in found], 1)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", STYLES)
def test_steps_are_the_networks(name):
    net = network(STYLES[name])
    made = stepping(net)
    assert made.told() is not None
    for rows, each in ((1, 1), (3, 1), (8, 1), (1, 3), (2, 4)):
        x = symbols(rows)
        with torch.no_grad():
            assert apart(walked(made, x, each), net(x)) < 3e-6


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("name", ["small", "gpt2", "gemma3"])
def test_steps_of_few_bits_are_those_of_the_same_matrices(name, bits):
    made = stepping(network(STYLES[name]), bits)
    exact = copy.deepcopy(made.net)
    for module in list(exact.modules()):
        for child, layer in module.named_children():
            if isinstance(layer, Packed):
                plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
                plain.weight.data = layer.weight
                if layer.bias is not None:
                    plain.bias.data = layer.bias
                setattr(module, child, plain)
    exact, x = exact.float(), symbols(2)
    with torch.no_grad():
        native_, asked = apart(walked(made, x, 1), exact(x)), apart(walked(made.net, x, 1), exact(x))
    assert native_ < 0.03
    assert native_ < 1.1 * asked  # the stream is float32, so that it is no further off than bfloat16 throughout


def test_what_is_remembered_is_the_same_either_way():
    net = network(STYLES["qwen"])
    made, x = stepping(net), symbols(2)
    states = [made.begin(2, LENGTH) for _ in range(2)]
    with torch.no_grad():
        for i in range(10):
            made(x[:, i : i + 1], state=states[0])
            net(x[:, i : i + 1], state=states[1])
        for a, b in zip(states[0].layers, states[1].layers, strict=True):
            assert a.at == b.at == 10
            for kept, other in zip(a.kept, b.kept, strict=True):
                torch.testing.assert_close(kept, other, rtol=0, atol=1e-5)
        states[0].rewind(4)
        again = torch.cat([made(x[:, i : i + 2], state=states[0]) for i in range(4, LENGTH, 2)], 1)
        assert apart(again, net(x)[:, 4:]) < 3e-6
        with pytest.raises(ValueError, match="beyond this memory's length"):
            made(x[:, :1], state=states[0])


def test_what_is_told_is_heard():
    net, x = network(presets.small(), told=5), symbols(2)
    cond = Condition(vector=torch.randn(2, 5))
    with torch.no_grad():
        assert apart(walked(stepping(net), x, 1, cond=cond), net(x, cond=cond)) < 3e-6
        assert apart(walked(stepping(net, 16), x, 1, cond=cond), net(x, cond=cond)) < 0.03
    net, cond = network(presets.small(), prefix=Prefix(4)), Condition(tokens=torch.randn(2, 4, 64))
    with torch.no_grad():
        assert apart(walked(stepping(net), x, 1, cond=cond), net(x, cond=cond)) < 3e-6


def test_of_a_prompt_only_what_is_asked_is_scored(monkeypatch):
    net, x = network(presets.small(), told=5), symbols(2)
    cond, null = Condition(vector=torch.randn(2, 5)), Condition(vector=torch.zeros(2, 5))
    scored, score = [], Transformer.score
    monkeypatch.setattr(Transformer, "score", lambda self, h: scored.append(h.shape[1]) or score(self, h))
    with torch.no_grad():
        for made in (net, stepping(net), Guided(net, 1.5, null), Guided(stepping(net), 1.5, null)):
            want = walked(made, x, 1, cond=cond)
            state = made.begin(*x.shape)
            scored.clear()
            last = made(x[:, :20], cond=cond, state=state, only=torch.full((2, 1), 19))
            assert scored == [1]
            assert apart(last, want[:, 19:20]) < 3e-6
            assert apart(made(x[:, 20:], cond=cond, state=state), want[:, 20:]) < 3e-6
            few = made.begin(*x.shape)
            assert apart(made(x[:, :4], cond=cond, state=few, only=torch.tensor([[1, 3]] * 2)), want[:, [1, 3]]) < 3e-6


def test_a_long_prompt_is_read_at_once():
    net = network(STYLES["llama"])
    codec = Bytes(LENGTH)
    codec.bos = 0
    reader, plain = (Reader(net, None, codec, 2, LENGTH) for _ in range(2))
    code = symbols(2)
    with torch.no_grad():
        last = reader.next(code, 22)
        each = [plain.next(code, place) for place in range(23)]
    assert reader.seen == plain.seen == 23
    assert apart(last, each[-1]) < 3e-6


def test_what_cannot_be_stepped_is_asked():
    x = symbols(2)
    for style in (presets.deepseek(hidden=32), presets.small(apart=3)):
        net = network(style)
        made = stepping(net)
        assert made.told() is None
        with torch.no_grad():
            assert apart(walked(made, x, 1), walked(net, x, 1)) == 0
    both = network(presets.bert(LENGTH), causal=False)
    assert not isinstance(stepping(both), Stepping)
    made = stepping(network(presets.small()))
    assert torch.equal(walked(made.train(), x, 1), walked(made.net, x, 1))


def test_weights_that_move_are_told_again():
    made, x = stepping(network(STYLES["gpt2"])), symbols(1)
    before = walked(made, x, 1)
    other = copy.deepcopy(made).double().float()
    with torch.no_grad():
        other.net.blocks[0].mlp.up.bias.mul_(2)
    other.float()
    assert apart(walked(made, x, 1), before) == 0
    assert apart(walked(other, x, 1), before) > 1e-3
    assert apart(walked(other, x, 1), walked(other.net, x, 1)) < 3e-6


def test_a_tied_matrix_is_packed_where_it_scores():
    made = stepping(network(STYLES["gpt2"]), 8)
    assert isinstance(made.net.head, Packed)
    assert not isinstance(made.net.embed, Packed)


def test_greedy_text_is_the_networks():
    net, codec = network(STYLES["llama"]), Bytes(LENGTH)
    codec.bos = 0
    texts = [
        System({"main": each}, NextToken(0), Autoregressive(temperature=0), codec).eval().sample(3, seed=0)["code"]
        for each in (net, stepping(net))
    ]
    assert torch.equal(*texts)


def test_a_run_writes_in_any_bits(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a rose is a rose is a rose. " * 200)
    maquette.train(
        "gpt", data=str(tmp_path / "data"), depth=1, vocab=0, context=32, steps=2, compile=False, out=tmp_path / "run", quiet=True
    )
    for bits in (32, 16, 8, 4):
        found = maquette.load(tmp_path / "run", bits=bits, device="cpu")
        assert isinstance(found.system.nets["main"], Stepping)
        assert len(found.sample(2, prompt="a rose", seed=1)["text"]) == 2
    told = {"prompt": "a rose", "seed": 1, "device": "cpu"}
    plain = maquette.sample(tmp_path / "run", 2, **told)
    assert maquette.sample(tmp_path / "run", 2, **told, bits=32, out=tmp_path / "b.json")["text"] == plain["text"]
    assert '"bits": 32' in (tmp_path / "b.json").read_text()
    assert maquette.sample(tmp_path / "run", 1, prompt="a rose " * 4, dials={"length": 20}, device="cpu")["code"].shape[1] <= 32
    with pytest.raises(ValueError, match="bits are 3; allowed are 32, 16, 8, 4, nearest is 4"):
        maquette.load(tmp_path / "run", bits=3)


def test_several_step_one_network_at_once():
    made = stepping(network(presets.llama(hidden=64)))
    rows = [symbols(1).roll(i, 1) for i in range(3)]
    expected = [walked(made, x, 1) for x in rows]
    with ThreadPoolExecutor(3) as callers:
        for _ in range(10):
            assert all(map(torch.equal, callers.map(partial(walked, made, each=1), rows), expected))


@pytest.mark.parametrize("bits", [0, 16, 8])
def test_weights_that_lie_transposed_are_read_as_they_are(bits):
    net = network(presets.llama(2, 100))
    want = walked(stepping(copy.deepcopy(net), bits), symbols(2), 1)
    for p in net.parameters():
        if p.dim() == 2:
            p.data = p.data.T.contiguous().T
    assert torch.equal(walked(stepping(net, bits), symbols(2), 1), want)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_numbers_of_kinds_that_native_steps_have_not_are_the_networks_own(kind):
    net = network(presets.llama(2, 100)).to(kind)
    assert torch.equal(walked(stepping(net), symbols(2), 1), walked(net, symbols(2), 1))
