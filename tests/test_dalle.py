"""Captions and pictures as one sequence: who sees whom, what is learned of a caption, guidance, completion, what is kept."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maquette import api, best
from maquette.conditioners.captions import EXAMPLES
from maquette.conditioners.symbols import Symbols
from maquette.contracts import IGNORE, Codec, Condition
from maquette.data import Data, Facts
from maquette.data.core import image_data
from maquette.experiment import Fit
from maquette.networks.heard import Prefix
from maquette.networks.presets import PLAIN_QK
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Attention
from maquette.nn.embed import GridPlaces
from maquette.nn.positions import Learned, Rotary
from maquette.objectives.likelihood import NextCode
from maquette.recipes.tokens import dalle
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, run

WORDS = ("red", "green", "blue", "white")
TOLD, SEEN = 6, 8  # symbols of a caption and of a picture


def told(rows: int, seed: int = 0) -> Condition:
    """Captions of random symbols, some shorter than others."""
    rng = torch.Generator().manual_seed(seed)
    symbols = torch.randint(20, (rows, TOLD), generator=rng)
    return Condition(tokens=symbols, mask=torch.arange(TOLD) < torch.arange(3, 3 + rows)[:, None])


def network(learned: int | tuple[int, ...] = (2, 2, 2), scored: bool = True) -> Transformer:
    """A small one with weights large enough for every difference to show."""
    torch.manual_seed(0)
    places = partial(Learned, count=learned) if learned else Rotary
    style = Style(attention=partial(Attention, norm=PLAIN_QK), positions=places)
    net = Transformer(9, 32, 2, 2, out=8, style=style, prefix=Prefix(TOLD, 20, scored))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return net.eval()


def pictures(rows: int = 2) -> torch.Tensor:
    return torch.cat([torch.full((rows, 1), 8), torch.arange(rows * (SEEN - 1)).view(rows, -1) * 5 % 8], 1)


def changed(symbols: torch.Tensor, place: int) -> torch.Tensor:
    other = symbols.clone()
    other[:, place] = (other[:, place] + 1) % 8
    return other


# -- who sees whom -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_picture_symbol_sees_the_whole_caption_and_no_later_symbol():
    net, x, cond = network(), pictures(), told(2)
    whole = net(x, cond=cond)
    for place in range(1, SEEN):
        other = net(changed(x, place), cond=cond)
        assert torch.equal(whole[:, :place], other[:, :place]), f"a row before {place} has seen it"
        assert not torch.isclose(whole[:, place:], other[:, place:]).all(-1).any(), f"a row from {place} on has not"
    for place in range(TOLD):  # a filling symbol is of its place, whatever symbol stands there
        other = net(x, cond=Condition(tokens=changed(cond.tokens, place), mask=cond.mask))
        same = torch.isclose(whole, other).all(-1)
        assert torch.equal(same.all(1), ~cond.mask[:, place]) and torch.equal(same.any(1), ~cond.mask[:, place])


@torch.no_grad()
def test_a_caption_sees_neither_the_picture_nor_what_of_it_is_yet_to_come():
    net, x, cond = network(), pictures(), told(2)
    before, after = net.read(x, cond)
    torch.testing.assert_close(after, net(x, cond=cond))
    assert torch.equal(before, net.read(changed(x, 1), cond)[0])
    assert before.shape == (2, TOLD, 20) and after.shape == (2, SEEN, 8)
    for place in range(1, 3):  # those are real in every row
        other = net.read(x, Condition(tokens=changed(cond.tokens, place), mask=cond.mask))[0]
        assert torch.equal(before[:, :place], other[:, :place]) and not torch.equal(before[:, place:], other[:, place:])


@torch.no_grad()
@pytest.mark.parametrize("learned", [(2, 2, 2), SEEN, 0], ids=["grid", "line", "rotary"])
@pytest.mark.parametrize("first", [1, 3])
def test_incremental_equals_full_behind_a_caption(learned, first):
    net, x, cond = network(learned), pictures(), told(2)
    memory = net.begin(2, SEEN)
    parts = [net(x[:, :first], cond=cond, state=memory)]
    parts += [net(x[:, at : at + 1], cond=cond, state=memory) for at in range(first, SEEN)]
    torch.testing.assert_close(torch.cat(parts, 1), net(x, cond=cond), atol=1e-5, rtol=1e-5)
    assert memory.at == TOLD + SEEN


@torch.no_grad()
def test_behind_a_captions_end_each_place_has_a_filling_of_its_own():
    heard: Any = network().heard
    cond = told(2)
    h = heard(cond)
    for row in range(2):
        real = 3 + row
        own = heard.embed(cond.tokens[row, :real]) + heard.places.weight[:real]
        torch.testing.assert_close(h[row], torch.cat([own, (heard.blanks.weight + heard.places.weight)[real:]]))
    torch.testing.assert_close(h[0, 4:], h[1, 4:])
    assert not torch.isclose(heard.blanks.weight[4], heard.blanks.weight[5]).any()


def test_places_of_a_grid_are_sums_of_rows_columns_and_books():
    grid: Any = GridPlaces((3, 4, 2), 5)
    row, column, book = (axis.weight for axis in grid.axes)
    whole = grid.weight.view(3, 4, 2, 5)
    assert grid.weight.shape == (24, 5)
    torch.testing.assert_close(whole[2, 1, 1], row[2] + column[1] + book[1])
    torch.testing.assert_close(whole[0, 3, 0], row[0] + column[3] + book[0])


def test_a_network_that_is_told_too_little_says_so():
    net, x = network(scored=False), pictures()
    for cond in (
        None,
        Condition(),
        Condition(tokens=torch.zeros(2, 3, dtype=torch.int64)),
        Condition(tokens=torch.zeros(2, 6, 32)),
    ):
        with pytest.raises(ValueError, match=r"must be told symbols \[6\] a row, as cond.tokens, and is told"):
            net(x, cond=cond)
    with pytest.raises(ValueError, match="scores nothing that it is told"):
        net.read(x, told(2))


# -- what is learned -----------------------------------------------------------------------------------------------------


class Dots(Codec):
    """Pictures [B,1,2,4] of eight levels <-> symbols int64[B,8]."""

    bos, length = 8, SEEN

    def encode(self, data):
        return (data * 7).round().long().flatten(1)

    def decode(self, code):
        return code.clamp(0, 7).float().view(-1, 1, 2, 4) / 7


def toy(heard: float = 0.125, obeyed: float = 0.7, rows: int = 400) -> tuple[System, Data]:
    """Pictures of one of four levels, the captioned one as often as `obeyed` says, and a system that may learn that."""
    rng = np.random.default_rng(0)
    asked = rng.integers(4, size=rows)
    shown = np.where(rng.random(rows) < obeyed, asked, rng.integers(4, size=rows))
    pixels = np.broadcast_to(shown[:, None, None, None], (rows, 1, 2, 4)).astype(np.uint8)
    column = {"image": torch.from_numpy(pixels.copy()), "text": [f"a {WORDS[i]} thing" for i in asked]}
    facts = Facts("dots", "image", "simulated", "", "", "", {}, levels=8)
    data = image_data(facts, {"train": column, "held": column})
    torch.manual_seed(0)
    hears = Symbols(TOLD, 600)
    hears.learn(data.train)
    style = Style(positions=partial(Learned, count=(2, 4, 1)))
    net = Transformer(9, 32, 1, 2, out=8, style=style, prefix=Prefix(TOLD, 600, scored=True))
    return System({"main": net}, NextCode(8, 0.2, heard), Autoregressive(), Dots(), hears), data


def taught(system: System, data: Data, steps: int) -> list[dict[str, float]]:
    fit = Fit(steps=steps, batch=64, lr=1e-2, muon=0.02)
    return [{k: float(v) for k, v in logs.items()} for logs in run(system, data, Progress(fit, seed=0))]


@pytest.fixture(scope="module")
def learnt() -> tuple[System, list[dict[str, float]]]:
    system, data = toy()
    return system, taught(system, data, 60)


def test_the_caption_is_learned_with_an_eighth_of_the_loss(learnt):
    system, data = toy()
    batch, rng = data.train.rows(torch.arange(64)), Streams.of(0, 64)
    loss, logs = system.objective.predict(system, batch, rng, 0)  # type: ignore[operator]
    code, heard = float(logs["code"].detach()), float(logs["told"].detach())
    assert float(loss.detach()) == pytest.approx(7 / 8 * code + heard / 8)
    assert code == pytest.approx(math.log(8), abs=0.15) and heard == pytest.approx(math.log(600), abs=0.15)
    loss.backward()
    net: Any = system.nets["main"]
    assert net.heard.head.weight.grad.abs().sum() > 0
    _, rows = learnt
    # a fifth of the captions empty, four words, all else certain: (.5 + .8 log 4) nats over .8 x 4 + .2 x 1 symbols
    assert rows[0]["predict/told"] > 6 and rows[-1]["predict/told"] < 0.6
    assert rows[-1]["predict/loss"] == pytest.approx(7 / 8 * rows[-1]["predict/code"] + rows[-1]["predict/told"] / 8, rel=1e-4)


def test_a_share_of_nothing_learns_nothing_of_captions():
    system, data = toy(heard=0.0)
    loss, logs = system.objective.predict(system, data.train.rows(torch.arange(8)), Streams.of(0, 8), 0)  # type: ignore[operator]
    loss.backward()
    heard: Any = system.nets["main"].heard
    assert logs == {} and heard.head.weight.grad is None and heard.embed.weight.grad is not None
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="heard is a share"):
            NextCode(8, 0.0, share)


def test_filling_symbols_are_no_targets():
    """Whatever logits say behind a caption's end, they cost nothing."""
    system, data = toy()
    batch = data.train.rows(torch.arange(4))
    cond = system.condition(batch)
    assert cond is not None and cond.mask is not None and not cond.mask.all()
    seen: list[torch.Tensor] = []
    net: Any = system.nets["main"]
    net.heard.head.register_forward_hook(lambda m, given, out: seen.append(out.retain_grad() or out))
    system.objective.drop = 0.0  # type: ignore[assignment]
    loss, _ = system.objective.predict(system, batch, Streams.of(0, 4), 0)  # type: ignore[operator]
    loss.backward()
    pulled = seen[0].grad.abs().sum(-1) > 0
    assert torch.equal(pulled[:, :-1], cond.mask[:, 1:]) and not pulled[:, -1].any()


def test_guidance_makes_captions_more_obeyed(learnt):
    system, _ = learnt
    asked = torch.arange(200) % 4
    about = {"text": [f"a {WORDS[i]} thing" for i in asked.tolist()]}
    shares = []
    for guidance in (0.0, 1.0, 3.0):
        made = system.sample(200, about=about, seed=0, sampler=Autoregressive(guidance=guidance))["code"]
        shares.append(float((made == asked[:, None]).float().mean()))
    assert shares[0] < 0.4 and 0.6 < shares[1] < 0.9 and shares[2] > shares[1] + 0.05


def test_dropped_captions_are_the_negative_ones(learnt):
    system, _ = learnt
    batch = {"text": ["a red thing"] * 3, "negative": ["a blue thing", "", "a green thing"]}
    said = system.condition({"text": batch["negative"]})
    null, some = system.condition(batch, drop=1.0), system.condition(batch, drop=0.5, rng=Streams.of(3, 3))
    told = system.condition(batch)
    assert torch.equal(null.tokens, said.tokens) and torch.equal(null.mask, said.mask)
    kept = (some.tokens == told.tokens).all(1)
    assert torch.equal(some.tokens[~kept], null.tokens[~kept]) and 0 < int(kept.sum()) < 3
    away = system.sample(200, about={"text": ["a red thing"] * 200}, seed=0, sampler=Autoregressive(guidance=3.0))["code"]
    asked = {"text": ["a red thing"] * 200, "negative": ["a red thing"] * 200}
    neither = system.sample(200, about=asked, seed=0, sampler=Autoregressive(guidance=3.0))["code"]
    assert (away == 0).float().mean() > (neither == 0).float().mean() + 0.05  # away from itself is no guidance
    with pytest.raises(ValueError, match="one for each caption"):
        system.condition({"text": ["a"], "negative": "b"}, drop=1.0)


def test_captions_nobody_said_are_examples_of_the_training_rows(learnt):
    system, _ = learnt
    made = system.sample(16, seed=0)["text"]
    assert set(made) <= {f"a {word} thing" for word in WORDS} and len(set(made)) > 1
    fresh = Symbols(TOLD, 600)
    assert fresh.guess(Streams.of(0, 2)) == {"text": ["", ""]}
    fresh.load_state_dict(system.roles()["conditioner"].state_dict())
    assert fresh.guess(Streams.of(0, 16)) == system.roles()["conditioner"].guess(Streams.of(0, 16))
    many = SimpleNamespace(columns={"text": [f"caption {i}" for i in range(1000)]})
    fresh.learn(many)
    assert EXAMPLES / 2 < len(set(fresh.guess(Streams.of(0, 2000))["text"])) <= EXAMPLES
    silent = Symbols(TOLD, 600, kept=0)
    silent.learn(many)
    assert "examples" not in silent.state_dict() and silent.guess(Streams.of(0, 1)) == {"text": [""]}


# -- a run ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("captioned"), np.random.default_rng(0)
    for i in range(32):
        pixels = np.full((16, 16, 3), 60, np.uint8)
        pixels[4:12, 4:12, i % 3] = 250 - rng.integers(0, 20)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {WORDS[i % 3]} square")
    return folder


@pytest.fixture(scope="module")
def drawn(captioned):
    out = captioned.with_name("dalle") / "run"
    small = {"depth": 1, "levels": "4,4", "words": 8, "patch": 2, "delay": 1}
    return api.train("dalle", data=str(captioned), steps=6, batch=8, out=out, quiet=True, **small)


def test_a_picture_is_completed_from_its_top(drawn, captioned, tmp_path):
    begun = drawn.begun(captioned, 3, "bottom")
    known = begun["start"] != IGNORE
    assert known[:, :32].all() and not known[:, 32:].any()  # of 8 x 8 places the lower half is open
    made = api.sample(drawn.run.path, 3, prompt="a red square", start=captioned, hide="bottom", out=tmp_path / "made.png")
    assert torch.equal(made["code"][known], begun["start"][known]) and (made["code"] != IGNORE).all()
    seen = ~begun["seen"].isnan()
    assert torch.equal(made["image"][seen], begun["seen"][seen]) and not seen[:, :, 8:].any() and seen[:, :, :8].all()
    assert made["text"] == ["a red square"] * 3
    assert api.sample(drawn.run.path, 2, start=captioned)["text"] == ["", ""]  # nobody said what the picture shows
    assert "" not in api.sample(drawn.run.path, 2)["text"]


def test_the_best_of_some_by_clip(drawn, captioned, tmp_path):
    judge = tmp_path / "judge"
    api.train("clip", data=str(captioned), depth=1, steps=2, batch=8, out=judge, quiet=True)
    kept = api.sample(drawn.run.path, 2, prompt="a red square", best_of=4, judge=judge)
    by = api.load(judge)
    asked = {"text": ["a red square"] * 8}
    every = drawn.sample(8, seed=0, about=asked)["image"]
    seen = by.system.objective.embed(by.system, {"image": every, **asked})  # type: ignore[operator]
    near = (seen["image"] * seen["text"]).sum(1).view(2, 4)
    torch.testing.assert_close(kept["closeness"], near.amax(1))
    assert torch.equal(kept["image"], every.view(2, 4, *every.shape[1:])[torch.arange(2), near.argmax(1)])
    assert best.best_pictures(drawn, by, 1, 2)["text"][0] in {f"a {word} square" for word in WORDS}


def test_the_codec_of_a_run_is_kept_and_its_shape_is_the_networks(captioned, tmp_path):
    first = api.train(
        "rvq", data=str(captioned), books=3, symbols=8, latent=4, steps=1, batch=4, out=tmp_path / "rvq", quiet=True
    )
    system = dalle(codec=str(tmp_path / "rvq"), data=str(captioned), depth=1).system
    net: Any = system.nets["main"]
    assert [axis.num_embeddings for axis in net.places.table.axes] == [8, 8, 3] and "codec" in system.frozen
    state = first.system.codec.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in system.codec.state_dict().items())
    api.train("kl_codec", data=str(captioned), latent=2, steps=1, batch=4, out=tmp_path / "kl", quiet=True)
    with pytest.raises(ValueError, match="has no codec of symbols; vq_vae, rvq, fsq and vqgan have one"):
        dalle(codec=str(tmp_path / "kl"), data=str(captioned))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"data": "digits"}, "dalle needs images with captions"),
        ({"data": "stdlib"}, "holds text"),
        ({"depth": 0}, "depth is 0"),
        ({"words": 2}, "words is 2"),
        ({"told": 1.0}, "told is 1.0"),
        ({"told": -1.0}, "told is -1.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"levels": ""}, "levels are ''"),
        ({"levels": "8,1"}, r"levels are \(8, 1\)"),
        ({"patch": 3}, "patch is 3"),
        ({"guidance": float("nan")}, "guidance is nan"),
    ],
)
def test_bad_arguments_are_named(how, says, captioned):
    with pytest.raises(ValueError, match=says):
        dalle(**{"data": str(captioned), **how})
