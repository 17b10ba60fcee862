"""What gives bert and diffusion_lm their names: what is asked, what is shown, a bound that holds; and words and kinds."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from maquette import api
from maquette.codecs.text import Bytes
from maquette.contracts import IGNORE
from maquette.metrics.cloze import words
from maquette.networks.classifier import pooled
from maquette.networks.transformer import Transformer
from maquette.nn.entropy import cross_entropy, each_cross_entropy
from maquette.objectives.denoising import Denoising
from maquette.processes.masked import Cloze, Masked
from maquette.recipes.masked_language import BOTH_WAYS, bert
from maquette.samplers.unmask import Unmask
from maquette.streams import Streams
from maquette.system import System


def loud(network: Transformer) -> Transformer:
    torch.manual_seed(0)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return network.eval()


def tiny(symbols: int = 5, **how) -> Transformer:
    return loud(Transformer(symbols + 1, 16, 2, 2, out=symbols, causal=False, style=BOTH_WAYS, **how))


# -- what is asked -------------------------------------------------------------------------------------------------------


def test_of_the_symbols_asked_most_are_masked_some_exchanged_some_kept():
    process, x = Cloze(100), torch.randint(100, (200, 100), generator=torch.Generator().manual_seed(0))
    rng = Streams.of(0, 200)
    x_t = process.corrupt(x, process.times(rng), rng.fork(1))
    asked = x_t > 100
    assert asked.sum(1).unique().tolist() == [15]
    shown = x_t % 101
    assert torch.equal(shown[~asked], x[~asked])
    share = [(shown[asked] == 100).float().mean(), (shown[asked] == x[asked]).float().mean()]
    assert share[0] == pytest.approx(0.8, abs=0.02) and share[1] == pytest.approx(0.101, abs=0.02)


def test_the_loss_is_of_what_is_asked_alone_also_where_it_stays():
    net, process, rng = tiny(), Cloze(5, asked=0.4), Streams.of(0, 3)
    x = torch.randint(5, (3, 10), generator=torch.Generator().manual_seed(0))
    x_t = process.corrupt(x, process.times(rng), rng.fork(1))
    logits = net(x_t % 6)
    wanted = torch.stack([each_cross_entropy(a, b)[c > 5].mean() for a, b, c in zip(logits, x, x_t, strict=True)])
    torch.testing.assert_close(process.distance(process.denoise(net, x_t, x_t[:, 0]), x, x_t, x_t[:, 0]), wanted)

    class Whole(torch.nn.Module):  # one that always scores everything
        def forward(self, x, cond=None):
            return net(x)

    torch.testing.assert_close(process.denoise(Whole(), x_t, x_t[:, 0]), process.denoise(net, x_t, x_t[:, 0]))


def test_shares_are_checked():
    with pytest.raises(ValueError, match=r"asked 1\.5"):
        bert(asked=1.5)
    with pytest.raises(ValueError, match="bert models text"):
        bert("digits")


# -- the bound -----------------------------------------------------------------------------------------------------------


def test_the_bound_given_a_beginning_is_the_mean_over_all_orders_of_the_rest():
    """Three symbols after one that is known: the estimate's mean is the exact mean over the 6 orders of writing them."""
    net, x, given = tiny(3), torch.tensor([[1, 0, 2, 1]]), torch.tensor([1])
    orders = []
    net.requires_grad_(False)
    for order in itertools.permutations((1, 2, 3)):
        total, seen = 0.0, torch.tensor([[1, 3, 3, 3]])
        for place in order:
            total -= float(net(seen)[0, place].log_softmax(-1)[x[0, place]])
            seen[0, place] = x[0, place]
        orders.append(total)
    wanted = sum(orders) / len(orders)
    with torch.no_grad():
        rows = 4000
        found = Masked(3, "linear", draws=3).nats(net, x.expand(rows, -1), None, Streams.of(0, rows), given.expand(rows))
    assert found.mean() == pytest.approx(wanted, abs=4 * float(found.std()) / rows**0.5 + 1e-3)


def test_a_score_given_a_beginning_reaches_the_process():
    codec = Bytes(6)
    system = System({"main": tiny(257)}, Denoising(Masked(257, "linear", draws=6), 0.0), Unmask(Masked(257), 2), codec).eval()
    code = codec.encode(["abcdef"])
    whole, rest = (
        system.objective.score(system, batch, Streams.of(0, 1))
        for batch in ({"code": code}, {"code": code, "given": torch.tensor([5])})
    )
    shown = code.clone()
    shown[0, 5] = 257
    with torch.no_grad():
        last = cross_entropy(system.nets["main"](shown)[:, 5:], code[:, 5:])
    assert rest.item() == pytest.approx(last.item(), rel=1e-4) and whole.item() > 3 * rest.item()


def test_what_is_known_of_a_text_stays_and_the_rest_is_written():
    codec = Bytes(8)
    process = Masked(257)
    system = System({"main": tiny(257)}, Denoising(process, 0.0), Unmask(process, steps=3), codec).eval()
    start = codec.encode(["ab"])
    start = torch.cat([start, torch.full((1, 3), IGNORE), codec.encode(["z"])], 1)
    out = system.sample(1, start=start, seed=0)["code"]
    assert out[0, :2].tolist() == [97, 98] and out[0, 5] == 122 and out.shape == (1, 8) and (out != IGNORE).all()


# -- words and kinds -----------------------------------------------------------------------------------------------------


def test_words_are_runs_of_letters_and_a_space_begins_one():
    codec = Bytes(40)
    text = "Add it_x, 12 more"
    found = ["".join(text[a:b]) for a, b in words(codec.encode([text])[0].tolist(), codec)]
    assert found == ["Add", "it_x", "more"]


def test_a_classifier_does_not_see_what_fills_up_a_row():
    encoder = loud(Transformer(12, 16, 1, 2, out=None, causal=False))
    x = torch.randint(12, (2, 5), generator=torch.Generator().manual_seed(0))
    filled = torch.cat([x, torch.full((2, 4), IGNORE)], 1)
    torch.testing.assert_close(pooled(encoder(filled), filled), pooled(encoder(x), x), rtol=0, atol=1e-5)
    assert pooled(torch.ones(1, 2, 3), torch.full((1, 2), IGNORE)).abs().sum() == 0


def test_a_classifier_reads_its_runs_own_symbols(tmp_path):
    """Learnt anew from the labelled texts they would be other words' numbers, and what the encoder knows worth nothing."""
    texts = ["alpha beta gamma delta " * 30, "one two three four five " * 30]
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text + str(i)}) + "\n" for i in range(20) for text in texts)
    )
    rows = [{"text": f"zebra yak {i}" if i % 2 else f"quilt rope {i}", "label": i % 2} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_one = {"depth": 1, "vocab": 300, "context": 16}
    how = {"steps": 2, "batch": 4, "quiet": True, "compile": False}
    first = api.train("bert", data=str(tmp_path / "texts.jsonl"), out=tmp_path / "bert", **tiny_one, **how)
    for tune in (True, False):
        out = tmp_path / f"named-{tune}"
        made = api.train(
            "text_classifier", run=str(tmp_path / "bert"), data=str(tmp_path / "rows.jsonl"), tune=tune, out=out, **how
        )
        assert torch.equal(made.system.codec.learned, first.system.codec.learned)
        same = torch.equal(made.system.nets["encoder"].embed.weight, first.system.nets["main"].embed.weight)
        assert same is not tune
