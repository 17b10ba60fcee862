"""pix2pix and CycleGAN: pairs, patches, dropout as noise, the cycle, identity and history; and two image sets as one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from maquette import api, recipes
from maquette.contracts import Condition
from maquette.data import DataError, open_data, recall
from maquette.data.beside import beside
from maquette.data.core import Data, Facts, image_data
from maquette.experiment import Fit
from maquette.networks.patch_discriminator import PatchDiscriminator
from maquette.networks.translator import FinePatches, ResidualTranslator, SkipTranslator, layers_of
from maquette.nn.history import History
from maquette.objectives.translation import LeastSquares, Paired
from maquette.recipes.translation import cyclegan, pix2pix
from maquette.report.pictures import grid, png
from maquette.samplers.oneshot import OneShot, Translate
from maquette.streams import Streams
from maquette.train import Progress, run


@pytest.fixture(scope="module")
def glyphs():
    return open_data("serif_glyphs")


# -- two image sets as one -----------------------------------------------------------------------------------------------


def images(name: str, count: int, side: int = 8, levels: int = 256, first: int = 0) -> Data:
    """`count` flat images, the i-th of grey first + i."""
    grey = (first + torch.arange(count)).to(torch.uint8)[:, None, None, None].expand(-1, 1, side, side).contiguous()
    about = Facts(name, "image", "own", name, name, "", {}, levels=levels, classes=("even", "odd"))
    columns = {part: {"image": grey, "label": torch.arange(count) % 2} for part in ("train", "held")}
    return image_data(about, columns)


def test_rows_of_two_sets_have_nothing_to_do_with_each_other():
    both = beside(images("a", 30), images("b", 70, first=100))
    batch = both.train.columns
    assert both.facts.rows == {"train": 70, "held": 70} and both.facts.sources and not images("a", 5).facts.sources
    assert batch["image"][:, 0, 0, 0].tolist() == list(range(100, 170))
    seen = torch.bincount(batch["source"][:, 0, 0, 0].long(), minlength=30)
    assert seen.tolist().count(2) == 20 and seen.tolist().count(3) == 10  # every source, as often as any other
    assert torch.equal(batch["source"][:, 0, 0, 0] % 2, batch["source_label"])
    order = torch.corrcoef(torch.stack([batch["source"][:, 0, 0, 0].float(), torch.arange(70.0)]))[0, 1]
    assert abs(float(order)) < 0.3 and (both.facts.name, both.facts.licence) == ("a:b", "a; b")


def test_sources_come_in_the_targets_grey_levels():
    both = beside(images("a", 8, first=248), images("b", 8, levels=17))
    assert both.train.columns["source"].max() == 16 and both.facts.levels == 17
    with pytest.raises(DataError, match=r"'a' of 8x8.*'b' of 16x16.*--size 8"):
        beside(images("a", 8), images("b", 8, side=16))


def test_two_names_with_a_colon_open_as_one_and_open_again():
    both = open_data("digits:digits")
    assert both.facts.name == "digits:digits" and both.facts.rows["train"] == 1437
    assert not torch.equal(both.train.columns["source"], both.train.columns["image"])
    with recall(both.facts):
        again = open_data("digits:digits")
        assert torch.equal(again.train.columns["source"], both.train.columns["source"])
    with pytest.raises(DataError, match="no data called 'digit'"):
        open_data("digit:digits")
    with pytest.raises(DataError, match="must be images"):
        open_data("digits:stdlib_prose")


def test_pairs_are_true_pairs(glyphs):
    """The same character: a Serif one is nearer to its own Sans one than to another, and no pair is on both sides."""
    held, train = glyphs.held.all(), glyphs.train.all()
    away = torch.cdist(held["image"].flatten(1), held["source"].flatten(1))
    assert float((away.argmin(1) == torch.arange(len(away))).float().mean()) > 0.7
    both = [torch.cat([part["image"], part["source"]], 1).flatten(1) for part in (held, train)]
    assert float(torch.cdist(*both).min()) > 0 and glyphs.facts.rows["train"] > 1900
    apart = (train["image"] - train["source"]).abs().mean((1, 2, 3))
    assert float(apart.min()) > 0.009  # what both faces draw alike is left out
    shifted = [(torch.roll(train["source"], move, 3) - train["image"]).abs().mean() for move in (-1, 1)]
    assert float(apart.mean()) < 0.7 * float(min(shifted))  # neither was moved for itself


def test_font_digits_lie_as_the_handwritten_ones():
    spreads = []
    for data in (open_data("font_digits8"), open_data("digits")):
        x = data.train.all()["image"][:1400, 0]
        side, mass = torch.arange(8.0), x.sum((1, 2))
        down, across = (side - ((x.sum(over) * side).sum(1) / mass)[:, None] for over in (2, 1))
        slant = (x * down[:, :, None] * across[:, None]).sum((1, 2)) / (x * down.square()[:, :, None]).sum((1, 2))
        spreads.append(float(slant.std()))
        assert float((x.amax(2) > 0).float().mean()) > 0.95  # ink from top to bottom
    assert 0.08 < spreads[0] < spreads[1] < 0.14


def test_folders_of_different_sizes_and_one_folder_are_refused(tmp_path):
    from PIL import Image

    for name, side in (("small", 8), ("large", 16)):
        (tmp_path / name).mkdir()
        for i in range(12):
            Image.new("L", (side, side), 20 * i).save(tmp_path / name / f"{i}.png")
    for recipe in (cyclegan, pix2pix):
        with pytest.raises(DataError, match=r"small' of 8x8.*large' of 16x16.*--size 8"):
            recipe(data=f"{tmp_path / 'small'}:{tmp_path / 'large'}")
    with pytest.raises(ValueError, match="needs images of two kinds"):
        cyclegan(data=str(tmp_path / "small"))
    with pytest.raises(ValueError, match="needs images of two kinds"):
        pix2pix(data=str(tmp_path / "small"))
    assert cyclegan(data=f"{tmp_path / 'small'}:{tmp_path / 'large'}", size=8).data.facts.shape == (1, 8, 8)


# -- pix2pix -------------------------------------------------------------------------------------------------------------


def pairs() -> Data:
    """A stroke, and the stroke that it must become: shifted right by two pixels, and brighter."""
    where = Streams.of(0, 200).integers(10, 1)[:, 0]
    source = torch.zeros(200, 1, 16, 16, dtype=torch.uint8)
    for row, at in enumerate(where.tolist()):
        source[row, :, 3:13, at : at + 3] = 120
    image = (torch.roll(source, 2, 3) * 2).clamp(0, 240)
    about = Facts("strokes", "image", "simulated", "", "", "", {})
    return image_data(about, {part: {"image": image, "source": source} for part in ("train", "held")})


def test_the_u_net_learns_a_pairing_and_its_dropout_is_the_noise(monkeypatch):
    monkeypatch.setattr("maquette.recipes.translation.open_data", lambda data, size: pairs())
    torch.manual_seed(0)
    found = pix2pix(depth=1)
    found.system.learn(found.data.train)
    progress = Progress(Fit(steps=60, batch=16, lr=2e-3, betas=(0.5, 0.999), clip=0.0))
    for _ in run(found.system, found.data, progress):
        pass
    batch = found.data.held.rows(torch.arange(40))
    about = {"source": batch["source"]}
    out = found.system.sample(40, about=about)["image"]
    copied, made = (float((x - batch["image"]).abs().mean()) for x in (batch["source"], out))
    assert made < 0.3 * copied
    again, other = (found.system.sample(40, about=about, seed=seed)["code"] for seed in (0, 1))
    first = found.system.sample(40, about=about)["code"]
    assert torch.equal(first, again) and not torch.equal(first, other)
    still = [found.system.sample(40, about=about, seed=seed, sampler=OneShot(0.0))["code"] for seed in (0, 1)]
    assert torch.equal(*still)  # no noise: dropout off


def test_every_layer_on_the_way_up_sees_its_mirror():
    torch.manual_seed(0)
    net = SkipTranslator((1, 32, 32), 8).eval()
    assert net.places == [32 * 16, 16 * 64] and net.latent == 1536
    with torch.no_grad():
        net.up[-1].weight.zero_()
        net.up[-1].bias.zero_()  # the way from below is cut: what is left comes across
        one, two = (Streams.of(i, 2).normal(1, 32, 32) for i in (0, 1))
        a, b = (net(torch.zeros(2, net.latent), cond=Condition(field=x)) for x in (one, two))
    assert float((a - b).abs().mean()) > 1e-3
    odd = SkipTranslator((3, 7, 10), 8, layers=2)
    assert odd(torch.zeros(2, odd.latent), cond=Condition(field=torch.zeros(2, 3, 7, 10))).shape == (2, 3, 7, 10)


def test_dropout_halves_and_doubles():
    net = SkipTranslator((1, 16, 16), 8, layers=3, dropped=1)
    seen: list[torch.Tensor] = []
    net.smooth[0] = nn.Identity()
    net.up[0].register_forward_hook(lambda _, inputs, out: seen.append(out))
    net.up[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    z = Streams.of(0, 3).normal(net.latent)
    net(z, cond=Condition(field=Streams.of(1, 3).normal(1, 16, 16)))
    made, used = seen[0], seen[1][:, : seen[0].shape[1]]
    kept = (z > 0).view_as(made)
    torch.testing.assert_close(used, torch.relu(made * kept * 2))
    assert 0.4 < float(kept.float().mean()) < 0.6


def test_a_patch_does_not_see_the_far_corner():
    for judge, side in ((PatchDiscriminator(1, 8), 64), (FinePatches(1, 8), 32)):
        x = Streams.of(0, 1).normal(1, side, side).requires_grad_(True)
        (slope,) = torch.autograd.grad(judge(x)[0, 0, 0], x)
        if isinstance(judge, FinePatches):  # its layers have no normalisation over the image
            assert float(slope[..., 12:, :].abs().max()) == 0 == float(slope[..., 12:].abs().max())
        assert float(slope[..., :8, :8].abs().max()) > 0 and judge(x).dim() == 3


# -- CycleGAN ------------------------------------------------------------------------------------------------------------


def test_half_of_what_is_shown_was_made_before_and_is_checkpointed():
    history = History((1, 1, 1), 50)
    new = torch.arange(50.0).view(50, 1, 1, 1)
    assert torch.equal(history(new, Streams.of(0, 50)), new)  # filling up
    later = torch.arange(1000.0, 1040.0).view(40, 1, 1, 1)
    shown = history(later, Streams.of(1, 40)).flatten()
    traded = shown != later.flatten()
    assert 12 <= int(traded.sum()) <= 28
    assert sorted([*history.kept.flatten().tolist(), *shown.tolist()]) == [*range(50), *range(1000, 1040)]  # nothing is lost
    again = History((1, 1, 1), 50)
    again.load_state_dict(history.state_dict())
    assert torch.equal(again.kept, history.kept) and int(again.count) == 50
    assert torch.equal(History((1, 1, 1), 0)(later, Streams.of(1, 40)), later)
    assert "objective.history.kept" in cyclegan(data="digits:digits").system.state_dict()


def test_least_squares():
    game, real, fake = LeastSquares(), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert game.discriminator(real, fake).tolist() == [0.0, 1.0] and game.generator(real, fake).tolist() == [1.0, 0.0]


INK, BRIGHT, PAPER = 100, 240, 30  # of the first kind, of the second; the second's paper is black


def bars(count: int = 400) -> Data:
    """A grey bar on grey at one of six places, and a bright one on black: every image of one kind has its counterpart.

    The second heap shows the third place five times in six: only going back and forth says that a bar keeps its place.
    """

    def kind(seed: int, ink: int, paper: int, often: float) -> Data:
        rng = Streams.of(seed, count)
        where = torch.where(rng.uniform(1)[:, 0] < often, torch.tensor(2), rng.integers(6, 1)[:, 0])
        image = torch.full((count, 1, 8, 8), paper, dtype=torch.uint8)
        for row, at in enumerate(where.tolist()):
            image[row, :, :, at : at + 2] = ink
        about = Facts(f"bars{seed}", "image", "simulated", "", "", "", {}, classes=tuple("012345"))
        return image_data(about, {part: {"image": image, "label": where} for part in ("train", "held")})

    return beside(kind(0, INK, PAPER, 0.0), kind(1, BRIGHT, 0, 0.8))


@pytest.mark.slow
def test_without_the_cycle_translations_are_not_the_counterparts(monkeypatch):
    """The same training with and without: only the cycle keeps what is needed to return."""
    monkeypatch.setattr("maquette.recipes.translation.open_data", lambda data, size: bars())
    astray, errors = {}, {}
    for cycle in (2.0, 0.0):
        torch.manual_seed(0)
        found = cyclegan(depth=1, cycle=cycle, identity=0.0)
        found.system.learn(found.data.train)
        progress = Progress(Fit(steps=45, batch=16, lr=2e-3, betas=(0.5, 0.999), clip=0.0))
        for _ in run(found.system, found.data, progress):
            pass
        batch = found.data.held.rows(torch.arange(200))
        about = {"source": batch["source"]}
        out = found.system.sample(200, about=about)["code"]
        back = found.system.sample(200, start=out, about=about, sampler=Translate("back"))["code"]
        true = torch.where(batch["source"] > (INK + PAPER) / 510, BRIGHT / 255, 0.0) * 2 - 1
        astray[cycle], errors[cycle] = float((out - true).abs().mean()), float((back - batch["source"] * 2 + 1).abs().mean())
    assert astray[2.0] < 0.25 and astray[0.0] > 0.45, astray  # the sources themselves: 0.45
    assert errors[0.0] > 2 * errors[2.0], errors


def test_losses_are_the_papers():
    found = cyclegan(data="digits:digits", cycle=7.0, identity=3.0)
    system, objective = found.system, found.system.objective
    assert [(p.name, p.roles) for p in objective.phases()] == [
        ("criticise", ("discriminator", "discriminator_back")),
        ("penalise", ("discriminator", "discriminator_back")),
        ("translate", ("generator", "back")),
    ]

    assert [p.every for p in objective.phases()] == [1, 4, 1]
    assert [p.name for p in cyclegan(data="digits:digits", gamma=0.0).system.objective.phases()] == ["criticise", "translate"]

    class Add(nn.Module):
        def __init__(self, what):
            super().__init__()
            self.what = what

        def forward(self, x, *, cond=None):
            return x + self.what

    class Says(nn.Module):
        def forward(self, x, *, cond=None):
            return x.mean((1, 2, 3))[:, None, None]

    system.nets["generator"], system.nets["back"] = Add(0.5), Add(-0.2)
    system.nets["discriminator"] = system.nets["discriminator_back"] = Says()
    batch = found.data.train.rows(torch.arange(6))
    loss, logs = objective.translate(system, batch, Streams.of(0, 6), 0)
    source, target = batch["source"] * 2 - 1, batch["image"] * 2 - 1
    fooled = (source.mean((1, 2, 3)) + 0.5 - 1).square().mean() + (target.mean((1, 2, 3)) - 0.2 - 1).square().mean()
    torch.testing.assert_close(logs["fooled"], fooled)
    torch.testing.assert_close(logs["returned"], torch.tensor(0.6))
    torch.testing.assert_close(logs["same"], torch.tensor(0.7))
    torch.testing.assert_close(loss, fooled + 7 * 0.6 + 3 * 0.7)
    loss, _ = objective.penalise(system, batch, Streams.of(0, 6), 0)  # a mean over 64 pixels has a slope of 1/64 at each
    torch.testing.assert_close(loss, torch.tensor(4 * 0.003 / 2 * 2 / 64))


def test_translating_needs_something_to_translate():
    system = cyclegan(data="digits:digits").system
    with pytest.raises(ValueError, match="nothing to translate"):
        system.sample(2, sampler=Translate("back"))
    with pytest.raises(ValueError, match="role is 'forth'"):
        Translate("forth")
    with pytest.raises(ValueError, match=r"source is of \(1, 9, 9\)"):
        system.sample(2, about={"source": torch.zeros(2, 1, 9, 9)})


def test_a_picture_of_the_second_kind_goes_back(tmp_path):
    run = api.train("cyclegan", data="digits:digits", steps=2, batch=4, out=tmp_path / "run", quiet=True)
    picture = api.load(run.run.path).data.held.rows(torch.tensor([3]))["image"]
    (tmp_path / "digit.png").write_bytes(png(grid(picture, zoom=1)))
    there, back = (
        api.sample(run.run.path, 1, start=tmp_path / "digit.png", dials={"role": role})["image"] for role in ("generator", "back")
    )
    system = api.load(run.run.path).system
    with torch.no_grad():
        expected = system.decode(system.steady("back")(system.encode({"image": picture})))
    torch.testing.assert_close(back, expected, atol=1 / 16, rtol=0)  # the picture's file has 256 levels, the data 17
    assert not torch.equal(there, back)
    with pytest.raises(recipes.UnknownName, match=r"label.*source"):  # the data have classes, but nothing here reads them
        api.sample(run.run.path, 1, about={"label": 3})


def test_what_a_run_keeps_of_its_data_is_said():
    assert any("64 training sources" in note for note in cyclegan(data="digits:digits").data.facts.notes)


def test_an_untrained_translator_leaves_images_as_they_are():
    net = ResidualTranslator(1, 8, layers=2)
    x = Streams.of(0, 2).uniform(1, 32, 32) * 2 - 1
    torch.testing.assert_close(net(x), x)
    with torch.no_grad():
        net.head.bias.fill_(0.5)
    torch.testing.assert_close(net(x), torch.where(x > 0.5, 1 + 0.1 * (x - 0.5), x + 0.5))  # beyond 1 a tenth counts
    assert [layers_of((1, side, side), 4) for side in (8, 9, 20, 32, 48)] == [2, 0, 2, 4, 4]


@pytest.mark.parametrize(
    ("recipe", "how", "message"),
    [
        (pix2pix, {"data": "digits"}, "two kinds"),
        (cyclegan, {"data": "digits"}, "font_digits8:digits"),
        (cyclegan, {"cycle": -1.0}, "-1"),
        (cyclegan, {"identity": float("nan")}, "nan"),
        (cyclegan, {"history": -5}, "-5"),
        (cyclegan, {"depth": 0}, "depth is 0"),
        (lambda data: Paired(-2.0), {}, "-2"),
    ],
)
def test_bad_arguments_are_named(recipe, how, message):
    with pytest.raises(ValueError, match=message):
        recipe(**({"data": "digits:digits"} | how))
