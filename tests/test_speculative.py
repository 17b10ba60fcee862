"""A draft changes the speed and never the text: the distribution over every sequence of a small vocabulary, and greedy text."""

from __future__ import annotations

import pytest
import torch

from maquette.codecs.text import BPE, Bytes
from maquette.conditioners.label import Labels
from maquette.contracts import IGNORE, Network
from maquette.dials import dials_of, turned
from maquette.networks import presets
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.objectives.likelihood import NextToken
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.choosing import Penalties
from maquette.samplers.rules import Rules
from maquette.samplers.speculative import Another, Foresight, Lookup, Speculative
from maquette.system import System


def tiny(vocab: int = 12, length: int = 24, seed: int = 0, std: float = 0.3, style: Style = Style()) -> System:  # noqa: B008
    torch.manual_seed(seed)
    network = Transformer(vocab, 16, 1, 2, style=style)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=std)
    codec = Bytes(length)
    codec.bos = 0
    return System({"main": network}, NextToken(0), Autoregressive(), codec).eval()


class Nowhere:
    """A draft that guesses at random, without chances or with wrong ones, and often an end."""

    def __init__(self, vocab: int):
        self.vocab = vocab

    def begin(self, system, reader, length):
        return self

    def guess(self, code, place, count, pick):
        return [((7 * place + i) % self.vocab, None) for i in range(count)]


class Pairs(Network):
    """Each symbol's successor by a table: a language model that costs nothing, so that thousands of texts can be drawn."""

    def __init__(self, vocab: int, seed: int, std: float = 1.0):
        super().__init__()
        self.table = torch.nn.Parameter(std * torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x, *, t=None, cond=None, state=None):
        return self.table[x]


def pairs(vocab: int, length: int, seed: int = 0, std: float = 1.0) -> System:
    codec = Bytes(length)
    codec.bos = 0
    return System({"main": Pairs(vocab, seed, std)}, NextToken(0), Autoregressive(), codec).eval()


AHEAD = Style(ahead=1, smear=True)
STYLES = {"plain": Style(), "smear": Style(smear=True), "gpt3": presets.gpt3(32, window=4), "ahead": AHEAD}
STYLES |= {"deepseek": presets.deepseek(2, 2, 16, kept=12, query=8)}
DRAFTS = {
    "another": lambda: Another(tiny(seed=1)),
    "lookup": Lookup,
    "nowhere": lambda: Nowhere(12),
}


def ragged(n: int = 4, length: int = 24) -> torch.Tensor:
    start = torch.full((n, length), IGNORE)
    start[1, :5], start[2, :11] = 3, torch.arange(1, 12)
    start[3, :2], start[3, 9:12] = 4, 5  # and something known further on
    return start


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("draft", DRAFTS)
def test_greedy_text_is_the_same(style, draft):
    system = tiny(style=STYLES[style])
    greedy = Autoregressive(temperature=0.0, rules=Rules(bias={0: -1.0}))
    want = system.sample(4, start=ragged(), sampler=greedy)["code"]
    made = Speculative(greedy, DRAFTS[draft](), 4)
    assert torch.equal(system.sample(4, start=ragged(), sampler=made)["code"], want)


@pytest.mark.parametrize("coupled", [True, False])
def test_a_network_that_guesses_ahead_is_its_own_draft(coupled):
    system = tiny(style=AHEAD, length=30)
    calls = []
    system.nets["main"].register_forward_hook(lambda *_: calls.append(1))
    for own in (Autoregressive(0.0), Autoregressive(0.7, rules=Rules(bias={0: -9.0}))):
        start = torch.full((2, 30), IGNORE)
        start[1, :9] = torch.arange(1, 10)
        want = system.sample(2, start=start, sampler=own)["code"]
        calls.clear()
        got = system.sample(2, start=start, sampler=Speculative(own, Foresight(), coupled=coupled))["code"]
        assert torch.equal(got, want) or (own.temperature and not coupled)
        assert len(calls) < 51  # some guesses were kept
    with pytest.raises(ValueError, match="guesses no symbol ahead"):
        tiny().sample(1, sampler=Speculative(Autoregressive(), Foresight()))


@pytest.mark.parametrize("draft", DRAFTS)
def test_coupled_with_its_draft_a_seeds_text_is_what_it_is_without_one(draft):
    own = Autoregressive(1.1, top_k=6, penalties=Penalties(1.2, 0.1, 0.1), rules=Rules(bias={0: -2.0}))
    system = tiny(style=Style(smear=True))
    want = system.sample(4, seed=5, sampler=own)["code"]
    assert torch.equal(system.sample(4, seed=5, sampler=Speculative(own, DRAFTS[draft](), 3, coupled=True))["code"], want)


def exact(system: System, own: Autoregressive, vocab: int, length: int) -> torch.Tensor:
    """The chance of every text, float64[vocab ** length], an end filling the rest of it: one symbol after another, by hand."""
    chances = torch.zeros(vocab**length, dtype=torch.float64)
    net, place = system.nets["main"], [vocab**i for i in reversed(range(length))]

    def grow(text: list[int], chance: float) -> None:
        if len(text) == length or 0 in text:
            chances[sum(s * p for s, p in zip(text + [0] * (length - len(text)), place, strict=True))] += chance
            return
        logits = net(torch.tensor([[0, *text]]))[:, -1]
        past = torch.tensor([text], dtype=torch.int64)
        if text:
            logits = own.penalties.take(logits, past, torch.zeros_like(past, dtype=torch.bool))
        for symbol, share in enumerate(own.trim(logits)[0].double().softmax(-1).tolist()):
            if share:
                grow([*text, symbol], chance * share)

    with torch.no_grad():
        grow([], 1.0)
    return chances


SLOW = [("plain", "another"), ("plain", "coupled"), ("trimmed", "far"), ("trimmed", "lookup"), ("trimmed", "coupled")]


@pytest.mark.parametrize(
    ("how", "draft"),
    [("plain", "far"), ("plain", "lookup"), ("trimmed", "another")]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW],
)
def test_sampled_texts_have_exactly_the_targets_distribution(draft, how):
    """Chi-square of 300 texts against all 4 ** 3 sequences."""
    vocab, length, n = 4, 3, 300
    own = Autoregressive() if how == "plain" else Autoregressive(0.8, top_p=0.9, penalties=Penalties(1.5, 0.3))
    system = pairs(vocab, length)
    other = Another(pairs(vocab, length, 2, 3.0 if draft == "far" else 1.0))
    made = Speculative(own, Lookup(2) if draft == "lookup" else other, 3, coupled=draft == "coupled")
    want = exact(system, own, vocab, length)
    assert float(want.sum()) == pytest.approx(1, abs=1e-6)
    assert unlike(drawn(system, made, vocab, length, n), want, n) < 4.5


def drawn(system: System, sampler: Speculative, vocab: int, length: int, n: int) -> torch.Tensor:
    code = system.sample(n, sampler=sampler, batch=n)["code"]
    place = torch.tensor([vocab**i for i in reversed(range(length))])
    return torch.bincount((code * place).sum(1), minlength=vocab**length).double()


def unlike(seen: torch.Tensor, want: torch.Tensor, n: int) -> float:
    """How many deviations chi-square is above its mean; texts expected fewer than 5 times are one cell, impossible ones none."""
    assert float(seen[want == 0].sum()) == 0
    often = want * n >= 5
    cells = [torch.cat([x[often], x[~often].sum()[None]]) for x in (seen, want * n)]
    cells = [x[cells[1] > 0] for x in cells]
    square, free = float(((cells[0] - cells[1]).square() / cells[1]).sum()), len(cells[0]) - 1
    return (square - free) / (2 * free) ** 0.5


def test_the_test_of_distributions_sees_a_draft_that_is_believed():
    system, other = pairs(4, 4), pairs(4, 4, 2)
    want = exact(system, Autoregressive(), 4, 4)
    assert unlike(drawn(other, Speculative(Autoregressive(), Lookup()), 4, 4, 400), want, 400) > 9


@pytest.mark.parametrize("draft", ["another", "lookup"])
def test_a_text_never_depends_on_its_batch(draft):
    system, made = tiny(style=Style(smear=True)), Speculative(Autoregressive(rules=Rules(bias={0: -2.0})), DRAFTS[draft](), 3)
    together = system.sample(4, start=ragged(), seed=3, sampler=made)["code"]
    for i in range(4):
        assert torch.equal(system.sample(1, start=ragged()[i : i + 1], seed=3, first=i, sampler=made)["code"][0], together[i])


def test_a_draft_that_knows_the_network_saves_most_of_its_readings():
    system = tiny(length=40)
    calls = []
    system.nets["main"].register_forward_hook(lambda *_: calls.append(1))
    greedy = Autoregressive(temperature=0.0, rules=Rules(bias={0: -100.0}))
    system.sample(1, sampler=Speculative(greedy, Another(tiny(length=40)), 4))
    assert len(calls) == 8  # 40 symbols, five at a reading
    calls.clear()
    system.sample(1, start=torch.tensor([[1, 2, 3, 4] * 5]), sampler=Speculative(greedy, Lookup(), 4))
    assert len(calls) < 20


def test_stop_strings_and_grammars_hold_with_a_draft():
    codec = BPE(300, 40)
    codec.learn(["one two three four 1 2 3 4 5\n"] * 5)
    nets = [tiny(300, 40, seed, style=Style(smear=True)).nets["main"] for seed in (0, 1)]
    system, other = (System({"main": net}, NextToken(0), Autoregressive(), codec).eval() for net in nets)
    for rules in (Rules(stop=("e", "1")), Rules(regex="[a-d]{3}( [0-9]{1,3}){2}")):
        own = Autoregressive(rules=rules)
        want = system.sample(4, seed=1, sampler=own)["text"]
        for draft in (Lookup(), Another(other)):
            got = system.sample(4, seed=1, sampler=Speculative(own, draft, 4, coupled=True))["text"]
            assert got == want
            for text in system.sample(4, seed=1, sampler=Speculative(own, draft, 4))["text"]:
                assert not rules.stop or ("e" not in text and "1" not in text)


@pytest.mark.parametrize("length", [14, 15, 16])
def test_a_grammar_that_runs_out_of_room_makes_the_same_text_with_a_draft(length):
    own = Autoregressive(0.0, rules=Rules(regex="(ab|cd){3,9}x?"), penalties=Penalties(1.3))
    for seed in range(4):
        system, other = (
            System({"main": tiny(257, std=0.5, seed=seed + more).nets["main"]}, NextToken(0), own, Bytes(length)).eval()
            for more in (0, 9)
        )
        want = system.sample(2, seed=1)["text"]
        assert system.sample(2, seed=1, sampler=Speculative(own, Another(other), 4))["text"] == want


def test_a_draft_of_other_symbols_is_refused_by_name():
    codecs = [BPE(300, 24), BPE(300, 24), BPE(320, 24), Bytes(24)]
    for codec, text in zip(codecs, ["some text " * 9, "other words " * 9, "some text " * 9, ""], strict=True):
        codec.learn([text])
    systems = [
        System({"main": tiny(codec.vocab).nets["main"]}, NextToken(codec.bos), Autoregressive(), codec) for codec in codecs
    ]
    says = [
        "runs/b writes BPE of 300 symbols too, but learnt other ones",
        "BPE of 320 symbols, and this run BPE of 300",
        "runs/b writes Bytes of 257",
    ]
    for draft, say in zip(systems[1:], says, strict=True):
        with pytest.raises(ValueError, match=say):
            systems[0].sample(1, sampler=Speculative(Autoregressive(), Another(draft, "runs/b")))
    told = tiny()
    told.conditioner = Labels((0.5, 0.5))
    with pytest.raises(ValueError, match="must be told label; a draft is told nothing"):
        tiny().sample(1, sampler=Speculative(Autoregressive(), Another(told)))


def test_its_dials_stand_beside_those_of_what_it_draws_by():
    made = turned(Autoregressive(temperature=0.8, top_p=0.95), {"sampler": "speculative", "ahead": "6", "longest": 2, "top_k": 5})
    assert made == Speculative(Autoregressive(temperature=0.8, top_p=0.95, top_k=5), Lookup(2), 6)
    assert dials_of(made)["temperature"] == 0.8
    with pytest.raises(ValueError, match="ahead is 1 or more guesses at a time, not 0"):
        Speculative(ahead=0)


def test_a_memory_that_cannot_go_back_is_refused():
    class Forgetful(Transformer):
        def begin(self, batch, length):
            self.kept = super().begin(batch, length)
            return type("Told", (), {"layers": [object()], "at": 0})()

        def forward(self, x, *, state=None, **told):
            return super().forward(x, state=self.kept if state is not None else None, **told)

    system = tiny()
    system.nets["main"] = Forgetful(12, 16, 2, 4).eval()
    with pytest.raises(ValueError, match="memory cannot go back"):
        system.sample(1, sampler=Speculative(Autoregressive(), Nowhere(12)))
