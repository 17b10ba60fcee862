"""Samplers that search: beams against every text there is and those of the reference library, contrast by hand, the best of n."""

from __future__ import annotations

import itertools

import pytest
import torch

from maquette.codecs.text import Bytes
from maquette.contracts import IGNORE, Condition, Network
from maquette.dials import turned
from maquette.networks import presets
from maquette.networks.stepping import stepping
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.objectives.likelihood import NextToken
from maquette.samplers import contrastive
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.beam import Beam
from maquette.samplers.best_of import BestOf
from maquette.samplers.contrastive import Contrastive
from maquette.samplers.rules import Rules
from maquette.streams import Streams
from maquette.system import System


def tiny(vocab: int = 12, length: int = 10, seed: int = 0, std: float = 0.3, style: Style = Style(), **how) -> System:  # noqa: B008
    torch.manual_seed(seed)
    network = Transformer(vocab, 16, 2, 4, style=style, **how)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=std)
    return around(network, length)


def around(network: Network, length: int) -> System:
    codec = Bytes(length)
    codec.bos = 0
    return System({"main": network}, NextToken(0), Autoregressive(), codec).eval()


def code(system: System, n: int, **how) -> torch.Tensor:
    return system.sample(n, **how)["code"]


def ragged(n: int = 4, length: int = 10) -> torch.Tensor:
    start = torch.full((n, length), IGNORE)
    start[1, :3], start[2, :6] = 3, torch.arange(1, 7)
    start[3, :2], start[3, 6:8] = 4, 5
    return start


SEARCHES = {"beam": Beam(3), "contrastive": Contrastive(3, 0.5), "best_of": BestOf(3)}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("style", [Style(smear=True), presets.gpt3(32, window=4), presets.deepseek(4, 2, 32, kept=12, query=8)])
def test_a_text_never_depends_on_its_batch(name, style):
    system = tiny(style=style)
    together = code(system, 4, start=ragged(), seed=1, sampler=SEARCHES[name])
    assert torch.equal(together[ragged() != IGNORE], ragged()[ragged() != IGNORE]) and not bool((together == IGNORE).any())
    for i in range(4):
        assert torch.equal(code(system, 1, start=ragged()[i : i + 1], seed=1, first=i, sampler=SEARCHES[name])[0], together[i])


@pytest.mark.parametrize("sampler", [Beam(1), Contrastive(1), Contrastive(4, 0.0)])
def test_of_one_beam_or_candidate_or_without_contrast_the_text_is_greedy(sampler):
    system = tiny(std=0.5)
    want = code(system, 4, start=ragged(), sampler=Autoregressive(0.0))
    assert torch.equal(code(system, 4, start=ragged(), sampler=sampler), want)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -0.5])
def test_beams_enough_find_the_best_text_there_is(penalty):
    vocab, length = 3, 4
    system = tiny(vocab, length, std=0.5)
    net, best, score = system.nets["main"], (), -float("inf")
    with torch.no_grad():
        for text in itertools.product(range(vocab), repeat=length):
            end = text.index(0) + 1 if 0 in text else length
            if any(text[end:]):
                continue
            logs = net(torch.tensor([[0, *text[:-1]]]))[0].log_softmax(-1)
            worth = float(sum(logs[i, text[i]] for i in range(end))) / end**penalty
            best, score = (text, worth) if worth > score else (best, score)
    assert tuple(code(system, 1, sampler=Beam(vocab**length, penalty))[0].tolist()) == best


class Theirs(Network):
    """A model of transformers'."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, *, t=None, cond=None, state=None):
        return self.model(x).logits


@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 0.0), (5, 2.0), (3, 0.7)])
def test_beams_find_what_transformers_find(beams, penalty):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=32, n_embd=16, n_layer=1, n_head=2, initializer_range=0.7, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(beams)
    model = transformers.GPT2LMHeadModel(config).eval()
    prompt = torch.randint(1, 11, (6, 3), generator=torch.Generator().manual_seed(1))
    begun = torch.cat([torch.zeros(6, 1, dtype=torch.int64), prompt], 1)
    want = model.generate(
        begun,
        attention_mask=torch.ones_like(begun),
        num_beams=beams,
        do_sample=False,
        max_new_tokens=9,
        length_penalty=penalty,
        early_stopping="never",
        pad_token_id=0,
    )[:, 1:]
    got = code(around(Theirs(model), 12), 6, start=prompt, sampler=Beam(beams, penalty))
    assert torch.equal(got[:, : want.shape[1]], want) and not bool(got[:, want.shape[1] :].any())
    assert len({tuple(row) for row in got.tolist()}) > 1


def test_beams_keep_to_rules_and_guidance_reaches_them():
    system = tiny(257, 12)
    system.codec.bos = 256
    system.objective.bos = 256
    made = system.sample(3, sampler=Beam(3, rules=Rules(regex="[ab]{2,5}c")))["text"]
    assert all(text.strip("ab") == "c" for text in made)
    free = system.sample(1, sampler=Beam(3, 0.0, length=6))["text"][0]
    made = system.sample(1, sampler=Beam(3, 0.0, length=6, rules=Rules(stop=(free[1],))))["text"][0]
    assert free[1] not in made
    told = tiny(told=2)
    cond, null = Condition(vector=torch.eye(2)), Condition(vector=torch.zeros(2, 2))
    for sampler in (Beam(3, guidance=2.0), Contrastive(3, guidance=2.0)):
        rows = []
        for i in (slice(0, 2), slice(0, 1), slice(1, 2)):
            part = [Condition(vector=c.vector[i]) for c in (cond, null)]
            with torch.no_grad():
                rows += list(sampler.draw(told, len(part[0].vector), cond=part[0], null=part[1], rng=Streams.of(0, 2)[i]))[-1:]
        assert torch.equal(rows[0], torch.cat(rows[1:]))


def test_contrast_is_weighed_as_by_hand(monkeypatch):
    """No memory, every candidate read with all that is before it (Su 2022, eq. 5)."""
    system, k, alpha = tiny(std=0.4), 4, 0.5
    net, text = system.nets["main"], [0, 5, 5]
    with torch.no_grad():
        for place in range(3, 11):
            top = net(torch.tensor([text]))[0, -1].softmax(-1).topk(k)
            worth = []
            for chance, symbol in zip(top.values, top.indices.tolist(), strict=True):
                h = net.last(net.stream(torch.tensor([[*text, symbol]]), None, None))[0]
                near = torch.nn.functional.cosine_similarity(h[-1:], h[:-1]).max()
                worth.append((1 - alpha) * chance - alpha * near)
            text.append(int(top.indices[int(torch.stack(worth).argmax()) if place < 10 else 0]))
            if text[-1] == 0:
                break
    got = code(system, 1, start=torch.tensor([[5, 5]]), sampler=Contrastive(k, alpha))[0].tolist()
    assert got[: len(text) - 1] == text[1:] and len(text) > 5
    monkeypatch.setattr(contrastive, "PIECE", 1)
    assert got == code(system, 1, start=torch.tensor([[5, 5]]), sampler=Contrastive(k, alpha))[0].tolist()
    system.nets["main"] = stepping(net)
    assert got == code(system, 1, start=torch.tensor([[5, 5]]), sampler=Contrastive(k, alpha))[0].tolist()
    assert got != code(system, 1, start=torch.tensor([[5, 5]]), sampler=Autoregressive(0.0))[0].tolist()


class Forgetful(Network):
    """A network that remembers nothing: it reads the whole page for every symbol."""

    def __init__(self, net: Network):
        super().__init__()
        self.net = net

    def forward(self, x, *, t=None, cond=None, state=None):
        return self.net(x, cond=cond)


def test_contrast_is_with_what_was_said_whether_or_not_a_network_remembers_it():
    system = tiny(std=0.6, length=16)
    want = code(system, 4, start=ragged(length=16), sampler=Contrastive(4, 0.8))
    forgetful = around(Forgetful(system.nets["main"]), 16)
    assert torch.equal(code(forgetful, 4, start=ragged(length=16), sampler=Contrastive(4, 0.8)), want)
    assert not torch.equal(code(system, 4, start=ragged(length=16), sampler=Contrastive(1)), want)


class Same(Network):
    """The same logits [V] wherever it is asked."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, x, *, t=None, cond=None, state=None):
        return self.logits.expand(*x.shape, -1)


def test_the_best_of_n_that_stop_strings_end_is_judged_by_what_was_written_and_by_no_end_that_was_not():
    logits = torch.full((257,), -1e4)
    logits[[ord("a"), ord("b"), ord("."), ord("!")]] = torch.tensor([0.25, 0.25, 0.25, 0.25]).log()
    logits[256] = -30.0  # an end that is never drawn
    system = System({"main": Same(logits)}, NextToken(256), Autoregressive(), Bytes(16)).eval()
    own = Autoregressive(rules=Rules(stop=(".", "!!")))
    sampler = BestOf(3, own=own)
    drawn = torch.tensor([list(b"aba.") + [256] * 12, list(b".") + [256] * 15, list(b"ab!b" * 4), list(b"a!!") + [256] * 13])
    worth = sampler.worth(system, drawn, torch.zeros_like(drawn, dtype=torch.bool), None)
    assert torch.allclose(worth, torch.tensor(0.25).log().expand(4), atol=1e-3)  # the chance of each symbol that was drawn
    assert not any("." in text or "!!" in text for text in system.sample(16, seed=1, sampler=sampler)["text"])


def test_the_best_of_n_is_the_likeliest_of_them_and_the_first_is_the_plain_sample():
    system = tiny(style=Style(smear=True))
    plain, few, many = (code(system, 8, seed=2, sampler=sampler) for sampler in (Autoregressive(), BestOf(1), BestOf(6, 0.0)))
    assert torch.equal(plain, few)

    def nats(x: torch.Tensor) -> torch.Tensor:
        over = (x == 0).long().cumsum(1) - (x == 0).long() > 0  # behind the first end nothing is written
        return system.objective.score(system, {"code": x.masked_fill(over, IGNORE)}, Streams.of(0, len(x)))

    with torch.no_grad():
        gain = nats(plain) - nats(many)
    assert bool((gain >= -1e-4).all()) and int((gain > 0).sum()) >= 5


def test_samplers_give_way_to_one_another_with_their_dials():
    plain = Autoregressive(temperature=0.8, length=9, rules=Rules(stop=("x",)))
    assert turned(plain, {"sampler": "beam", "beams": "8"}) == Beam(8, length=9, rules=Rules(stop=("x",)))
    assert turned(plain, {"sampler": "best-of", "of": 3}) == BestOf(3, own=plain)
    assert turned(BestOf(3, own=plain), {"sampler": "contrastive"}) == Contrastive(length=9, rules=Rules(stop=("x",)))
    with pytest.raises(ValueError, match="Did you mean 'contrastive'"):
        turned(plain, {"sampler": "contrast"})
    with pytest.raises(ValueError, match=r"beams is 1 .greedy. or more, not 0; nearest is 1"):
        turned(plain, {"sampler": "beam", "beams": 0})
