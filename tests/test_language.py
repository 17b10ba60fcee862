"""What gives a language model its name: losslessness, causality, an exact likelihood, decoding that equals the whole."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from maquette.codecs.text import BPE, Bytes
from maquette.contracts import IGNORE, Condition
from maquette.networks import presets
from maquette.networks.presets import PLAIN_QK
from maquette.networks.style import Ends, Style
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Attention
from maquette.nn.positions import Alibi, Learned, YaRN
from maquette.objectives.likelihood import NextToken, costs, cross_entropy
from maquette.runs import build
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, ready, run

TEXTS = ["def add(a, b):\n    return a + b\n", "class A:\n    x = 1\n\n    def f(self):\n        return self.x\n"] * 20
STYLES = {
    "llama": Style(),
    "grouped": Style(attention=partial(Attention, groups=2, norm=PLAIN_QK), ends=Ends(tied=True)),
    "smear": Style(smear=True),
    "gpt2": presets.gpt2(32),
    "gpt3": presets.gpt3(32, window=4),
    "yarn": presets.llama(2, stretch=YaRN(4.0, 8)),
    "qwen": presets.qwen(2),
    "gemma": presets.gemma(16, groups=2, size=8, window=5),
    "gemma3": presets.gemma(16, groups=2, window=3, third=True),
    "deepseek": presets.deepseek(4, 2, 32, kept=12, query=8),
    "grok": presets.grok(2, experts=4),
    "t5": presets.t5(both=False),
    "alibi": Style(positions=Alibi),
    "apart": Style(apart=1, smear=True),
}


def loud(network: Transformer) -> Transformer:
    """Weights far from their quiet start, so that every path matters."""
    torch.manual_seed(0)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return network.eval()


def tiny(vocab: int = 12, length: int = 8, sampler: Autoregressive | None = None, **how) -> System:
    network = loud(Transformer(vocab, 16, 2, 4, **how))
    codec = Bytes(length)
    codec.bos = 0
    return System({"main": network}, NextToken(0), sampler or Autoregressive(), codec).eval()


def last(system: System, n: int, **how) -> torch.Tensor:
    return system.sample(n, **how)["code"]


# -- codecs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe() -> BPE:
    codec = BPE(320, 16)
    codec.learn(TEXTS)
    return codec


@settings(max_examples=70, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_every_text_survives_both_codecs(texts):
    codec = BPE(300)
    codec.learned = _learned()
    for each in (codec, Bytes()):
        assert each.decode(each.encode(texts)) == texts


_kept: list[torch.Tensor] = []


def _learned() -> torch.Tensor:
    if not _kept:
        codec = BPE(300)
        codec.learn(TEXTS)
        _kept.append(codec.learned)
    return _kept[0]


@pytest.mark.parametrize("text", ["<|endoftext|>", "a<|endoftext|>b", "\ufffd\x00", "\r\n\t \u2028", " " * 50 + "\n" * 9])
def test_text_that_looks_special_is_text(bpe, text):
    assert bpe.bos not in bpe.tokenize([text])[0]
    assert bpe.decode(bpe.encode([text])) == [text]


def test_merges_shorten_what_they_were_learned_on(bpe):
    assert len(bpe.tokenize(TEXTS[:1])[0]) < len(TEXTS[0]) / 2


def test_decoding_stops_at_the_end_and_bad_bytes_are_replaced(bpe):
    code = bpe.encode(["def add", "class A"])
    code = torch.cat([code, torch.full((2, 1), bpe.bos), code], 1)
    assert bpe.decode(code) == ["def add", "class A"]
    assert Bytes().decode(torch.tensor([[0xC3, 0x28, 256, 65]])) == ["\ufffd("]


def test_what_was_learned_travels_in_the_state_dict(bpe):
    fresh = BPE(320, 16)
    with pytest.raises(ValueError, match="not learned from a corpus"):
        fresh.encode(["x"])
    fresh.load_state_dict(bpe.state_dict())
    assert fresh.tokenize(TEXTS) == bpe.tokenize(TEXTS)
    other = BPE(300, 16)
    other.learn(["something else entirely"])
    other.load_state_dict(bpe.state_dict())
    assert other.tokenize(TEXTS) == bpe.tokenize(TEXTS)


def test_bad_vocabularies_and_contexts_are_refused():
    with pytest.raises(ValueError, match="nearest is 257"):
        BPE(100)
    with pytest.raises(ValueError, match="at least 1 symbol, not 0"):
        BPE(300, 0)


# -- network ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STYLES)
def test_logits_ignore_the_future(name):
    network = loud(Transformer(12, 16, 2, 4, style=STYLES[name]))
    x = torch.randint(12, (2, 20), generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, 11:] = (changed[:, 11:] + 1) % 12
    before, after = network(x), network(changed)
    torch.testing.assert_close(before[:, :11], after[:, :11], rtol=0, atol=1e-6)
    assert (before[:, 11:] - after[:, 11:]).abs().max() > 0.1


def test_without_causality_every_row_sees_everything():
    network = loud(Transformer(12, 16, 2, 4, causal=False))
    x = torch.zeros(1, 6, dtype=torch.int64)
    y = x.clone()
    y[0, 5] = 3
    assert (network(x) - network(y)).abs().amax(-1).min() > 1e-3
    assert network.begin(1, 6) is None


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("parts", [(20,), (1,) * 20, (7, 1, 1, 4, 7)], ids=["whole", "single", "ragged"])
def test_incremental_logits_equal_full_ones(name, parts):
    network = loud(Transformer(12, 16, 2, 4, style=STYLES[name], told=3))
    x = torch.randint(12, (3, 20), generator=torch.Generator().manual_seed(1))
    cond = Condition(vector=torch.eye(3))
    with torch.no_grad():
        state = network.begin(3, 20)
        pieces = [network(piece, cond=cond, state=state) for piece in x.split(parts, 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), network(x, cond=cond), rtol=0, atol=1e-4)


def test_a_memory_is_never_overrun():
    network = Transformer(12, 16, 1, 2)
    with torch.no_grad(), pytest.raises(ValueError, match="beyond this memory's length of 4"):
        network(torch.zeros(1, 5, dtype=torch.int64), state=network.begin(1, 4))
    with pytest.raises(ValueError, match="9 positions are 1 more than the 8 learned"):
        Transformer(12, 16, 1, 2, style=Style(positions=partial(Learned, count=8))).begin(1, 9)
    with pytest.raises(ValueError, match="not 3 heads of even size"):
        Transformer(12, 16, 1, 3)


def test_the_condition_reaches_every_logit():
    network = loud(Transformer(12, 16, 2, 4, told=2))
    x = torch.zeros(2, 5, dtype=torch.int64)
    y = network(x, cond=Condition(vector=torch.eye(2)))
    assert (y[0] - y[1]).abs().amax(-1).min() > 1e-3
    with pytest.raises(ValueError, match="must be told a condition vector of width 2"):
        network(x)


# -- likelihood ------------------------------------------------------------------------------------------------------


def test_cross_entropy_and_its_gradient_are_torchs():
    logits = torch.randn(3, 100, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float32).requires_grad_()
    target = torch.arange(300).view(3, 100) % 7
    target[0, :50] = IGNORE
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE)
    (want,) = torch.autograd.grad(theirs, logits)
    ours = cross_entropy(logits, target)
    (got,) = torch.autograd.grad(3 * ours, logits)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(got, 3 * want)
    torch.testing.assert_close(cross_entropy(logits.detach(), target), theirs.detach())
    assert cross_entropy(logits, torch.full_like(target, IGNORE)) == 0


def test_probabilities_of_all_sequences_sum_to_one():
    system = tiny(vocab=3, length=4)
    code = torch.cartesian_prod(*[torch.arange(3)] * 4)
    score = system.objective.score(system, {"code": code}, Streams.of(0, len(code)))
    assert float(score.detach().neg().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_given_symbols_and_padding_are_not_scored():
    system = tiny()
    code = torch.randint(12, (2, 8), generator=torch.Generator().manual_seed(0))
    rng = Streams.of(0, 2)
    whole = system.objective.score(system, {"code": code}, rng)
    head = system.objective.score(system, {"code": code[:, :3]}, rng)
    tail = system.objective.score(system, {"code": code, "given": torch.tensor([3, 3])}, rng)
    torch.testing.assert_close(head + tail, whole)
    padded = torch.nn.functional.pad(code[:, :3], (0, 5), value=IGNORE)
    torch.testing.assert_close(system.objective.score(system, {"code": padded}, rng), head)
    loss, _ = system.objective.predict(system, {"code": padded}, rng, 0)
    torch.testing.assert_close(loss, head.sum() / 6)


@pytest.mark.parametrize("learnt", [0, 3, 40, 96])
def test_what_is_not_learnt_is_not_scored_and_nothing_else_changes(learnt, monkeypatch):
    """The same costs and gradients as where all places are scored: as many are as the fullest row has, in steps of 32."""
    torch.manual_seed(0)
    net = Transformer(50, 16, 2, 2)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    code = torch.randint(50, (3, 96))
    rank = torch.rand(3, 96).argsort(1)
    target = code.roll(-1, 1).masked_fill(rank >= torch.tensor([[learnt], [min(learnt, 5)], [0]]), IGNORE)
    sizes, found = [], []
    score = net.score
    monkeypatch.setattr(net, "score", lambda h: sizes.append(h.shape[1]) or score(h))
    for selective in (True, False):
        monkeypatch.setattr(Transformer, "selective", selective)
        each = costs(net, code, target, None)
        found.append([each, *torch.autograd.grad(each.square().sum(), list(net.parameters()), allow_unused=True)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    assert sizes == [{0: 0, 3: 32, 40: 64, 96: 96}[learnt], 96]


# -- sampler ---------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log()


@pytest.mark.parametrize(
    ("how", "chances"),
    [
        ({}, [8, 4, 2, 1, 1]),
        ({"top_k": 2}, [8, 4, 0, 0, 0]),
        ({"top_k": 99}, [8, 4, 2, 1, 1]),
        ({"top_p": 0.5}, [8, 0, 0, 0, 0]),
        ({"top_p": 0.7}, [8, 4, 0, 0, 0]),
        ({"top_p": 0.8}, [8, 4, 2, 0, 0]),
        ({"top_p": 1e-9}, [8, 0, 0, 0, 0]),
        ({"min_p": 0.3}, [8, 4, 0, 0, 0]),
        ({"min_p": 0.2}, [8, 4, 2, 0, 0]),
        ({"temperature": 0.5}, [64, 16, 4, 1, 1]),
        ({"temperature": 0.5, "top_p": 0.9}, [64, 16, 0, 0, 0]),
        ({"top_k": 3, "min_p": 0.5}, [8, 4, 0, 0, 0]),
        ({"temperature": 0}, [1, 0, 0, 0, 0]),
        ({"temperature": 1e-40, "top_p": 0.9, "min_p": 0.1}, [1, 0, 0, 0, 0]),
    ],
)
def test_symbols_follow_the_exact_distribution(how, chances):
    n = 20000
    want = torch.tensor(chances, dtype=torch.float64)
    want /= want.sum()
    drawn = Autoregressive(**how).choose(LOGITS.expand(n, -1), Streams.of(0, n))
    seen = torch.bincount(drawn, minlength=5) / n
    assert bool((seen[want == 0] == 0).all())
    assert bool(((seen - want).abs() <= 4.5 * (want * (1 - want) / n).sqrt()).all()), seen


def test_ties_at_the_edge_of_top_p_do_not_let_more_in():
    kept = Autoregressive(top_p=0.5).trim(torch.zeros(1, 4))
    assert int(torch.isfinite(kept).sum()) == 2


@pytest.mark.parametrize(
    ("how", "say"),
    [
        ({"temperature": -0.5}, "temperature is 0 .greedy. or more, not -0.5; nearest is 0"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "nearest is 1"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"temperature": float("nan")}, "temperature"),
        ({"length": -3}, "length"),
    ],
)
def test_bad_dials_are_refused(how, say):
    with pytest.raises(ValueError, match=say):
        Autoregressive(**how)


def test_whole_sequences_follow_the_models_own_distribution():
    system = tiny(vocab=3, length=3)
    n = 6000
    code = last(system, n)
    place = torch.tensor([9, 3, 1])
    every = torch.cartesian_prod(*[torch.arange(3)] * 3)
    want = system.objective.score(system, {"code": every}, Streams.of(0, 27)).detach().neg().exp()
    stays = (every != 0).all(1)  # a row that draws bos has ended
    seen = torch.bincount((code * place).sum(1), minlength=27)[(every * place).sum(1)] / n
    error = (seen - want)[stays].abs() / (want * (1 - want) / n + 1e-9).sqrt()[stays]
    assert float(error.max()) < 4.5


def test_memory_changes_nothing_but_the_time(monkeypatch):
    system = tiny(length=12)
    fast = last(system, 5, seed=3)
    monkeypatch.setattr(Transformer, "begin", lambda *_: None)
    assert torch.equal(last(system, 5, seed=3), fast)


def test_a_sample_never_depends_on_its_batch():
    system = tiny(length=10)
    start = torch.full((6, 10), IGNORE)
    start[1, :4] = 5
    start[4, :7] = 3
    together = last(system, 6, start=start, seed=1)
    for i in range(6):
        assert torch.equal(last(system, 1, start=start[i : i + 1], seed=1, first=i)[0], together[i])


def test_known_symbols_stay_and_shape_what_follows():
    system = tiny(length=10)
    start = torch.full((4, 10), IGNORE)
    start[:, 0], start[:, 6] = 7, torch.arange(1, 5)
    code = last(system, 4, start=start)
    assert bool((code[:, 0] == 7).all())
    assert torch.equal(code[:, 6], torch.arange(1, 5))
    assert not bool((code == IGNORE).any())
    full = torch.randint(12, (2, 10), generator=torch.Generator().manual_seed(0))
    assert torch.equal(last(system, 2, start=full), full)
    assert torch.equal(last(system, 2, start=full, sampler=Autoregressive(length=8)), full)
    assert last(system, 2, start=full[:, :3], sampler=Autoregressive(length=5)).shape == (2, 5)


def test_drafts_grow_and_a_row_that_ends_stays_ended():
    system = tiny(length=40)
    drafts = [code for code, _ in system.stream(8, seed=5)]
    assert all(torch.equal(b[:, : a.shape[1]], a) for a, b in itertools.pairwise(drafts))
    assert drafts[-1].shape == (8, 40)
    ended = (drafts[-1] == 0).cumsum(1) > 0
    assert bool(ended.any())
    assert bool((drafts[-1][ended] == 0).all())


def test_greedy_takes_the_likeliest_every_time():
    system = tiny(length=10, sampler=Autoregressive(temperature=0))
    code = last(system, 1)[0]
    x = torch.cat([torch.zeros(1, dtype=torch.int64), code[:-1]])
    likeliest = system.nets["main"](x[None])[0].argmax(-1)
    end = (code == 0).long().argmax() if bool((code == 0).any()) else 10
    assert torch.equal(code[:end], likeliest[:end])


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="nothing compiles here")
def test_a_step_of_compiled_graphs_is_the_same_step(tmp_path, monkeypatch):
    """But for the code a graph becomes, which takes ten seconds and is run where bands are reached: each operation as it is."""
    compiled, graphs = nn.Module.compile, []
    (tmp_path / "notes.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 60)

    def as_it_is(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", lambda net: compiled(net, backend=as_it_is))
    losses = []
    for compile in (True, False):
        experiment, _ = build(
            "gpt", {"data": str(tmp_path), "depth": 1, "vocab": 0, "context": 16, "compile": compile, "batch": 4}, 0
        )
        experiment.system.learn(experiment.data.train)
        ready(experiment.system, experiment.fit)
        taken = run(experiment.system, experiment.data, Progress(replace(experiment.fit, steps=1), 0))
        losses.append(torch.stack([logs["predict/loss"] for logs in taken]))
        assert graphs
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
