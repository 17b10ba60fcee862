"""Gated PixelCNN: causal in every pixel and channel, no blind spot, a likelihood that sums to one, completion that obeys it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maquette.codecs.pixels import Levels
from maquette.conditioners.label import Labels
from maquette.contracts import IGNORE, Condition
from maquette.lossless import pack, unpack
from maquette.networks.pixelcnn import PixelCNN
from maquette.networks.raster import BOOST
from maquette.nn.densities import LogisticMixture
from maquette.nn.entropy import each_cross_entropy
from maquette.objectives.likelihood import NextToken
from maquette.recipes.pixels import pixelcnn
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, run

SHAPES = [(1, 4, 5), (3, 3, 4)]


def network(shape: tuple[int, int, int], levels: int = 5, depth: int = 4, told: int = 2, parts: int = 0) -> PixelCNN:
    """A network whose every parameter says something."""
    torch.manual_seed(0)
    net = PixelCNN(shape, levels, width=24, depth=depth, told=told, parts=parts).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())), alpha=0.2)
    return net


def system(shape: tuple[int, int, int], levels: int, labels: int = 0, parts: int = 0) -> System:
    codec = Levels(shape, levels)
    conditioner = Labels((0.7, 0.3)) if labels else None
    net = network(shape, levels, told=labels, parts=parts)
    return System({"main": net}, NextToken(codec.bos), Autoregressive(), codec, conditioner).eval()


def inputs(x: Tensor, bos: int) -> Tensor:
    return torch.cat([torch.full_like(x[:, :1], bos), x[:, :-1]], 1)


def every_image(length: int, levels: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=length)))


@pytest.mark.parametrize("parts", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_every_row_ignores_the_future_and_sees_the_whole_past(shape, parts):
    """Causal in every pixel and every channel; and no blind spot: each symbol moves all rows after it (van den Oord 2016b)."""
    net, length = network(shape, parts=parts), math.prod(shape)
    x, cond = torch.randint(0, 5, (6, length), generator=torch.Generator().manual_seed(1)), Condition(vector=torch.ones(6, 2))
    before = net(inputs(x, 5), cond=cond)
    for place in range(length):
        other = x.clone()
        other[:, place] = (x[:, place] + 2) % 5
        moved = (net(inputs(other, 5), cond=cond) - before).abs().amax((0, 2))
        assert not moved[: place + 1].any(), f"rows {moved[: place + 1].nonzero().flatten().tolist()} saw symbol {place}"
        assert moved[place + 1 :].min() > 0 if place + 1 < length else True, f"symbol {place} is in a blind spot"


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 2), 5), ((3, 2, 2), 2)])
@pytest.mark.parametrize("labels", [0, 2])
@pytest.mark.parametrize("parts", [0, 3])
@torch.no_grad()
def test_the_likelihood_sums_to_one(shape, levels, labels, parts):
    """Over every image there is; with labels, over every image and label."""
    whole = system(shape, levels, labels, parts)
    images = every_image(math.prod(shape), levels)
    values = whole.conditioner.every() if whole.conditioner else [({}, 0.0)]
    total = 0.0
    for batch, log in values:
        about = {k: v.expand(len(images)) for k, v in batch.items()}
        nats = whole.objective.score(whole, {"code": images, **about}, Streams.of(0, len(images)))
        assert nats is not None and float(nats.max() - nats.min()) > 1  # the images are not all as likely
        total += math.exp(log) * float((-nats.double()).exp().sum())
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("parts", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_incremental_decoding_and_prefixes_equal_full(shape, parts):
    net, length = network(shape, parts=parts), math.prod(shape)
    x, cond = inputs(torch.randint(0, 5, (4, length)), 5), Condition(vector=torch.randn(4, 2))
    full, memory = net(x, cond=cond), net.begin(4, length)
    first = net(x[:, :7], cond=cond, state=memory)
    rest = [net(x[:, i : i + 1], cond=cond, state=memory) for i in range(7, length)]
    assert torch.allclose(torch.cat([first, *rest], 1), full, atol=1e-5)
    for short in range(1, length):
        assert torch.allclose(net(x[:, :short], cond=cond), full[:, :short], atol=1e-5)


@torch.no_grad()
def test_the_mixtures_channels_are_chained_as_in_the_joint_density():
    """Row by row the network scores what PixelCNN++'s joint density of a pixel says (Salimans 2017, eq. 3 and section 2.2)."""
    shape, levels = (3, 3, 4), 5
    net = network(shape, levels, parts=4)
    x, cond = torch.randint(0, levels, (6, 36), generator=torch.Generator().manual_seed(1)), Condition(vector=torch.ones(6, 2))
    chained = each_cross_entropy(net(inputs(x, levels), cond=cond), x).sum(1)
    grid = x.view(6, 3, 4, 3)
    down = right = net.see(grid)
    for layer in net.gates():
        down, right = layer(down, right, net.place, cond.vector)
    params = net.head(torch.relu(net.mix(torch.relu(right)))) + 2 * BOOST * net.bias
    joint = LogisticMixture(levels, 4).nats(grid.permute(0, 3, 1, 2) * (2 / (levels - 1)) - 1, params)
    assert torch.allclose(chained, joint, rtol=1e-4)


@torch.no_grad()
def test_a_later_channel_leans_on_an_earlier_one_by_the_mixtures_coefficient():
    """One logistic, blue = 0.8 red: the likeliest blue follows red; with the coefficient at 0 it does not."""
    mixture, levels = LogisticMixture(17, 1), torch.tensor([0, 8, 16])
    params = torch.zeros(3, mixture.width(3), 1, 1)
    params[:, 4:7] = -4.0  # log-scales: narrow
    x = torch.zeros(3, 3, 1, 1)
    x[:, 0, 0, 0] = levels * (2 / 16) - 1
    still = mixture.each(x, params)[:, 2, :, 0, 0].argmax(-1)
    params[:, 8] = math.atanh(0.8)  # blue from red; 7 is green from red, 9 blue from green
    moved = mixture.each(x, params)[:, 2, :, 0, 0].argmax(-1)
    assert still.tolist() == [8, 8, 8] and moved.tolist() == [2, 8, 14]  # -0.8, 0 and 0.8 on 17 levels, rounded


def test_the_mixtures_parts_begin_apart_and_learn_apart():
    torch.manual_seed(0)
    net = PixelCNN((1, 4, 4), 17, width=8, depth=1, parts=3)
    whole = System({"main": net}, NextToken(17), Autoregressive(), Levels((1, 4, 4), 17))
    loss, _ = whole.objective.phases()[0].move(whole, {"code": torch.randint(0, 17, (8, 16))}, Streams.of(0, 8), 0)
    loss.backward()
    weight, mean, scale = net.head.weight.grad[:, :, 0, 0].view(3, 3, -1).unbind(1)
    assert (mean[0] - mean[1]).abs().max() > 1e-4 and (weight[0] - weight[1]).abs().max() > 1e-4
    assert (scale[0] - scale[1]).abs().max() > 1e-4


@torch.no_grad()
def test_the_condition_reaches_every_row():
    net = network((3, 3, 4))
    x = inputs(torch.randint(0, 5, (1, 36)), 5)
    a, b = (net(x, cond=Condition(vector=torch.tensor([v]))) for v in ([1.0, 0.0], [0.0, 1.0]))
    assert (a - b).abs().amax(-1).min() > 1e-4
    with pytest.raises(ValueError, match="condition vector of width 2"):
        net(x)


def test_an_occluded_half_is_completed_by_the_models_own_conditional():
    """The known half stays bit for bit; what is written below it has the frequencies of p(below | above), found by counting."""
    whole = system((1, 2, 2), 3)
    start = torch.tensor([[2, 0, IGNORE, IGNORE]]).expand(6000, -1)
    code = whole.sample(6000, start=start, seed=1, batch=6000)["code"]
    assert torch.equal(code[:, :2], start[:, :2])
    below = every_image(2, 3)
    images = torch.cat([start[:9, :2], below], 1)
    with torch.no_grad():
        nats = whole.objective.score(whole, {"code": images}, Streams.of(0, 9))
    assert nats is not None
    truth = (-nats).softmax(0)
    seen = torch.bincount(code[:, 2] * 3 + code[:, 3], minlength=9) / 6000
    assert float((seen - truth).abs().sum()) < 0.06  # the mean of this distance, were they equal, is about 0.03
    assert float((seen - 1 / 9).abs().sum()) > 0.1


def test_a_sample_does_not_depend_on_its_batch():
    whole = system((3, 2, 2), 4, 2)
    together = whole.sample(6, seed=3)
    alone = whole.sample(1, seed=3, first=4)
    assert torch.equal(together["code"][4], alone["code"][0]) and together["label"][4] == alone["label"][0]


@pytest.mark.parametrize("parts", [0, 2])
def test_colour_pictures_are_modelled_sampled_and_compressed(parts, tmp_path):
    """Red, green and blue of a folder, 256 levels each, through the recipe."""
    shades = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
    for i, pixels in enumerate(shades):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    experiment = pixelcnn(str(tmp_path), depth=2, parts=parts)
    whole = experiment.system
    assert experiment.data.facts.shape == (3, 6, 5)
    steps = run(whole, experiment.data, Progress(replace(experiment.fit, steps=2, batch=8)))
    assert all(math.isfinite(float(logs["predict/loss"])) for logs in steps)
    assert whole.sample(2, seed=1)["image"].shape == (2, 3, 6, 5)
    code = whole.encode(experiment.data.held.rows(torch.arange(1)))
    assert code.shape == (1, 90) and torch.equal(unpack(whole, pack(whole, code).data)[0], code)


def test_training_raises_the_likelihood_of_what_was_seen():
    """One image in two levels: after a few steps it is nearly certain, and the others nearly impossible."""
    torch.manual_seed(0)
    net = PixelCNN((1, 2, 2), 2, width=8, depth=2)
    x = torch.tensor([[0, 1, 1, 0]])
    whole = System({"main": net}, NextToken(2), Autoregressive(), Levels((1, 2, 2), 2))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(60):
        loss, _ = whole.objective.phases()[0].move(whole, {"code": x}, Streams.of(step, 1), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        nats = whole.objective.score(whole, {"code": every_image(4, 2)}, Streams.of(0, 16))
    assert nats is not None and int(nats.argmin()) == 6 and float(nats.min()) < 0.1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"drop": 2.0}, "not 2.0"),
        ({"sight": 9}, "sight is 9 pixels; allowed are 1 .. 8"),
        ({"parts": -1}, "parts is -1"),
    ],
)
def test_bad_dials_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        pixelcnn(**arguments)


def test_a_state_longer_than_an_image_is_refused():
    with pytest.raises(ValueError, match="holds 4 symbols"):
        network((1, 2, 2)).begin(1, 5)
