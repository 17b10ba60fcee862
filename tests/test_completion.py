"""Completion: what is seen stays, what is hidden is written, and the label fits what is seen."""

from __future__ import annotations

import itertools

import apart
import numpy as np
import pytest
import torch

from maquette import api
from maquette.codecs.pixels import Levels, Pixels
from maquette.completion import PARTS, fitting, hidden, occluded, weighed
from maquette.conditioners.label import Labels
from maquette.contracts import IGNORE
from maquette.data import DataError, open_data
from maquette.networks.pixelcnn import PixelCNN
from maquette.objectives.likelihood import NextToken
from maquette.recipes.codecs import symbols_of
from maquette.report.pictures import grid, png
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pixelcnn"
    return api.train("pixelcnn", depth=2, steps=12, batch=32, seed=1, out=folder, quiet=True)


@pytest.mark.parametrize("part", list(PARTS))
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6)])
def test_the_hidden_part_is_open_and_the_rest_is_as_it_was(part, shape):
    codec, images = Levels(shape, 5), torch.randint(0, 5, (2, *shape), generator=torch.Generator().manual_seed(0)) / 4
    away = hidden(part, *shape[1:])
    code = occluded(codec, images, away)
    assert 0 < int(away.sum()) <= away.numel() * (0.9 if part == "around" else 0.5)
    place = away[:, :, None].expand(-1, -1, shape[0]).flatten()  # channels innermost
    assert bool((code[:, place] == IGNORE).all()) and torch.equal(code[:, ~place], codec.encode(images)[:, ~place])


def test_symbols_of_patches_tell_nothing_of_what_is_hidden_and_all_others_stay():
    torch.manual_seed(0)
    facts = open_data("digits").facts
    codec = symbols_of(facts, 32, 4, books=2).eval()  # 4 x 4 places of 2 x 2 pixels
    images, away = torch.rand(3, 1, 8, 8).mul(16).round() / 16, hidden("left", 8, 8)
    away[0, 7] = True  # a pixel is enough to open its patch
    other = torch.where(away, 1 - images, images)
    with torch.no_grad():
        code, again, whole = occluded(codec, images, away), occluded(codec, other, away), codec.encode(images)
    assert torch.equal(code, again) and not torch.equal(whole, codec.encode(other))
    open_places = (code == IGNORE).view(3, 4, 4, 2)
    assert open_places[:, :, :2].all() and open_places[:, 0, 3].all() and int(open_places[0].sum()) == 2 * 9


def test_parts_are_where_they_say():
    assert hidden("bottom", 4, 4)[2:].all() and not hidden("bottom", 4, 4)[:2].any()
    assert hidden("left", 4, 4)[:, :2].all() and torch.equal(hidden("top", 4, 4), ~hidden("bottom", 4, 4))
    assert hidden("middle", 8, 8)[2:6, 2:6].all() and int(hidden("middle", 8, 8).sum()) == 16
    with pytest.raises(ValueError, match=r"'below' is no part .* allowed are bottom"):
        hidden("below", 4, 4)
    with pytest.raises(ValueError, match="not made of symbols"):
        occluded(Pixels(5), torch.zeros(1, 1, 4, 4), hidden("bottom", 4, 4))


def test_the_label_is_drawn_from_its_posterior_given_what_is_seen():
    """p(label | upper half), by adding up all lower halves; drawn that often."""
    torch.manual_seed(0)
    net, codec = PixelCNN((1, 2, 2), 3, width=8, depth=2, told=2), Levels((1, 2, 2), 3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape))
    whole = System({"main": net}, NextToken(3), Autoregressive(), codec, Labels((0.4, 0.6))).eval()
    start = torch.tensor([[2, 0, IGNORE, IGNORE]])
    below = torch.tensor(list(itertools.product(range(3), repeat=2)))
    every = torch.cat([start[:, :2].expand(9, -1), below], 1)
    truth = (-weighed(whole, every)).exp().sum(0)
    truth = truth / truth.sum()
    labels = fitting(whole, start.expand(4000, -1), Streams.of(3, 4000))["label"]
    share = float((labels == 0).float().mean())
    assert abs(share - float(truth[0])) < 0.03 and abs(float(truth[0]) - 0.4) > 0.03


def test_half_a_digit_is_completed_from_python_and_from_the_shell(digits, tmp_path):
    image = digits.data.held.rows(torch.tensor([4]))["image"]
    (tmp_path / "digit.png").write_bytes(png(grid(image, zoom=1)))
    batch = api.sample(digits.run.path, 6, start=tmp_path / "digit.png", out=tmp_path / "a.npz", seed=3)
    assert torch.equal(batch["image"][:, :, :4], image[:, :, :4].expand(6, -1, -1, -1))
    assert len({lower.numpy().tobytes() for lower in batch["image"][:, :, 4:]}) > 1 and len(batch["label"]) == 6
    call = ["sample", str(digits.run.path), "-n", "6", "--seed", "3"]
    call += ["--start", str(tmp_path / "digit.png"), "--hide", "bottom", "--out", str(tmp_path / "b.npz")]
    assert apart.ended(apart.begun(apart.say, call, {}, str(tmp_path / "told.txt"))) == 0, (tmp_path / "told.txt").read_text()
    assert np.array_equal(np.load(tmp_path / "b.npz")["image"], batch["image"].numpy())
    told = api.sample(digits.run.path, 2, start=tmp_path / "digit.png", hide="right", about={"label": "7"})
    assert torch.equal(told["image"][..., :4], image[..., :4].expand(2, -1, -1, -1)) and told["label"].tolist() == [7, 7]


def test_masked_models_complete_any_part(tmp_path):
    run = api.train("maskgit", depth=1, steps=3, batch=16, out=tmp_path / "run", quiet=True)
    images = run.data.held.rows(torch.arange(3))["image"]
    np.savez(tmp_path / "three.npz", image=images.numpy())
    batch = api.sample(run.run.path, 4, start=tmp_path / "three.npz", hide="middle")
    seen = ~hidden("middle", 8, 8)
    assert torch.equal(batch["image"][..., seen], images[[0, 1, 2, 0]][..., seen])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((1, 1, 9, 8), np.uint8), "are 8x9 with 1 channel; this run's are 8x8"),
        (np.zeros((1, 3, 8, 8), np.uint8), "with 3 channels; this run's are 8x8 with 1 channel"),
        (np.full((1, 1, 8, 8), 7, np.uint8), "none of this run's 17 grey levels"),
        (np.zeros((0, 1, 8, 8), np.uint8), "has no picture in it"),
    ],
)
def test_pictures_of_another_kind_are_refused(digits, tmp_path, image, said):
    np.savez(tmp_path / "x.npz", image=image)
    with pytest.raises((DataError, ValueError), match=said):
        api.sample(digits.run.path, 2, start=tmp_path / "x.npz")


def test_a_generator_without_a_use_for_pictures_says_so(tmp_path):
    run = api.train("gan", steps=1, batch=8, out=tmp_path / "run", quiet=True)
    np.savez(tmp_path / "x.npz", image=np.zeros((1, 1, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="not made of symbols"):
        api.sample(run.run.path, 2, start=tmp_path / "x.npz")


def test_whole_pictures_are_rebuilt_translated_or_found_again(tmp_path):
    """What becomes of a picture follows from the run: a codec rebuilds it, a translator turns it, a space of styles seeks it."""
    images = (Streams.of(0, 3).uniform(1, 8, 8) * 255).round() / 255  # of more grey levels than the runs have
    np.savez(tmp_path / "three.npz", image=images.numpy())
    made = {}
    for recipe in ("vq_vae", "cyclegan", "pix2pix", "stylegan2"):
        data = "digits" if recipe in ("vq_vae", "stylegan2") else "digits:digits"
        run = api.train(recipe, data=data, depth=1, steps=1, batch=8, out=tmp_path / recipe, quiet=True)
        made[recipe] = api.sample(run.run.path, 3, start=tmp_path / "three.npz", out=tmp_path / f"{recipe}.png")["image"]
        assert made[recipe].shape == (3, 1, 8, 8) and not torch.equal(made[recipe][0], made[recipe][1])
        if recipe != "stylegan2":
            again = api.sample(run.run.path, 1, start=tmp_path / "three.npz")["image"]
            torch.testing.assert_close(again[0], made[recipe][0])
        with pytest.raises(ValueError, match="takes whole pictures and completes none"):
            api.sample(run.run.path, 2, start=tmp_path / "three.npz", hide="top")
    levels = (images * 16).round() / 16
    assert float((made["cyclegan"] - levels).abs().mean()) < 0.2  # it begins as the identity
