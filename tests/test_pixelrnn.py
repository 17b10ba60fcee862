"""PixelRNN: causal in every pixel and channel, a triangle or everything in sight, a likelihood that sums to one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from maquette.codecs.pixels import Levels
from maquette.contracts import IGNORE, Condition
from maquette.lossless import pack, unpack
from maquette.networks.pixelrnn import Diagonal, DiagonalBiLSTM, PixelRNN, RowLSTM, lstm, skew, unskew
from maquette.objectives.likelihood import NextToken
from maquette.recipes.pixels import pixelrnn
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System

LAYERS = [DiagonalBiLSTM, RowLSTM]
SHAPES = [(1, 4, 5), (3, 3, 4)]
either = pytest.mark.parametrize("layer", LAYERS)


def network(layer, shape: tuple[int, int, int], levels: int = 5, depth: int = 2, told: int = 2) -> PixelRNN:
    """A network whose every parameter says something."""
    torch.manual_seed(0)
    net = PixelRNN(shape, levels, layer, width=12, depth=depth, told=told).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())), alpha=0.2)
    return net


def system(layer, shape: tuple[int, int, int], levels: int) -> System:
    codec = Levels(shape, levels)
    return System({"main": network(layer, shape, levels, told=0)}, NextToken(codec.bos), Autoregressive(), codec).eval()


def inputs(x: Tensor, bos: int) -> Tensor:
    return torch.cat([torch.full_like(x[:, :1], bos), x[:, :-1]], 1)


def moved(net: PixelRNN, place: int) -> Tensor:
    """How much each row of logits moves when one symbol changes: [T]."""
    length = math.prod(net.shape)
    x, cond = torch.randint(0, 5, (6, length), generator=torch.Generator().manual_seed(1)), Condition(vector=torch.ones(6, 2))
    other = x.clone()
    other[:, place] = (x[:, place] + 2) % 5
    return (net(inputs(other, 5), cond=cond) - net(inputs(x, 5), cond=cond)).abs().amax((0, 2))


@pytest.mark.parametrize("shape", SHAPES)
@either
@torch.no_grad()
def test_every_row_ignores_the_future_and_sees_the_past(layer, shape):
    """Causal in every pixel and every channel. Of the past one thing is hidden, as in the paper: the last pixel of the row
    above, from pixels that are more than 3 to its left (no layer's input there has it, and the 7x7 convolution ends before).
    """
    net, length, breadth = network(layer, shape), math.prod(shape), shape[2]
    for place in range(length):
        change = moved(net, place)
        assert not change[: place + 1].any(), f"rows {change[: place + 1].nonzero().flatten().tolist()} saw symbol {place}"
        column = place // shape[0] % breadth
        seen = place + 1 if column < breadth - 1 else place + 1 + shape[0] * max(0, breadth - 4)
        assert bool((change[seen:] > 0).all()), f"symbol {place} is in a blind spot"


@torch.no_grad()
def test_the_diagonal_lstm_sees_all_the_past_in_one_layer_and_the_row_lstm_a_triangle(monkeypatch):
    """Far beyond the 7x7 convolution, on a narrow strip: by recurrence alone (van den Oord 2016, figure 4)."""
    shape = (1, 4, 24)
    monkeypatch.setattr("maquette.networks.pixelrnn.SIGHT", 1)
    corner, end = 0, 4 * 24 - 1
    whole, triangle = (network(layer, shape, depth=1) for layer in LAYERS)
    assert moved(whole, corner)[end] > 0
    assert moved(whole, 23)[3 * 24] > 0  # from the right end of the first row to the left end of the last: the other direction
    change = moved(triangle, corner).view(4, 24) > 0
    assert not change[3, 8:].any() and bool(change[3, :4].all())  # one pixel wider per row, and the convolutions' own reach


@torch.no_grad()
def test_the_skewed_scan_is_the_recurrence_written_out():
    """Diagonal by diagonal = pixel by pixel: each state from its left and its upper neighbour (eq. 3, figure 3)."""
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert skew(x)[0, 0].tolist()[1] == [0, 4, 5, 6, 7, 0] and torch.equal(unskew(skew(x), 4), x)
    torch.manual_seed(0)
    part = Diagonal(3, 1, 0)
    image = torch.randn(2, 6, 3, 4)
    gates, found = part.inward(image), part(image, None)
    zero = torch.zeros(2, 3, 1)
    out = {(r, c): zero for r in range(-1, 3) for c in range(-1, 4)}
    cell = dict(out)
    for r, c in itertools.product(range(3), range(4)):
        state = part.across(torch.cat([out[r - 1, c], out[r, c - 1]], 2))
        out[r, c], cell[r, c] = lstm(gates[:, :, r, c, None] + state, cell[r, c - 1])
        assert torch.allclose(found[:, :, r, c], out[r, c][..., 0], atol=1e-6)


@torch.no_grad()
def test_the_direction_from_the_right_tells_of_rows_above_only():
    torch.manual_seed(0)
    both, image = DiagonalBiLSTM(3, 1, 0), torch.randn(1, 6, 3, 4)
    from_right = both(image, None) - both.left(image, None)
    assert not from_right[:, :, 0].any() and bool(from_right[:, :, 1:].any())
    changed = image.clone()
    changed[:, :, 1] += 1
    again = both(changed, None) - both.left(changed, None)
    assert torch.allclose(again[:, :, :2], from_right[:, :, :2]) and not torch.allclose(again[:, :, 2], from_right[:, :, 2])


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 2), 5), ((3, 2, 2), 2)])
@either
@torch.no_grad()
def test_the_likelihood_sums_to_one(layer, shape, levels):
    whole = system(layer, shape, levels)
    images = torch.tensor(list(itertools.product(range(levels), repeat=math.prod(shape))))
    nats = whole.objective.score(whole, {"code": images}, Streams.of(0, len(images)))
    assert nats is not None and float(nats.max() - nats.min()) > 1  # the images are not all as likely
    assert float((-nats.double()).exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 4), (1, 4, 1)])
@either
@torch.no_grad()
def test_incremental_decoding_and_prefixes_equal_full(layer, shape):
    net, length = network(layer, shape), math.prod(shape)
    x, cond = inputs(torch.randint(0, 5, (4, length)), 5), Condition(vector=torch.randn(4, 2))
    full, memory = net(x, cond=cond), net.begin(4, length)
    first = net(x[:, :3], cond=cond, state=memory)
    rest = [net(x[:, i : i + 1], cond=cond, state=memory) for i in range(3, length)]
    assert torch.allclose(torch.cat([first, *rest], 1), full, atol=1e-5)
    for short in range(1, length):
        assert torch.allclose(net(x[:, :short], cond=cond), full[:, :short], atol=1e-5)
    with pytest.raises(ValueError, match=f"holds {length} symbols"):
        net.begin(1, length + 1)
    with pytest.raises(ValueError, match="condition vector of width 2"):
        net(x)


@either
def test_an_occluded_half_is_completed_and_compressed(layer):
    whole = system(layer, (3, 2, 2), 4)
    start = torch.tensor([[3, 0, 1, 2, 2, 0, *[IGNORE] * 6]]).expand(5, -1)
    code = whole.sample(5, start=start, seed=1)["code"]
    assert torch.equal(code[:, :6], start[:, :6]) and len({tuple(row) for row in code.tolist()}) > 1
    assert torch.equal(unpack(whole, pack(whole, code).data)[0], code)


@either
def test_training_raises_the_likelihood_of_what_was_seen(layer):
    torch.manual_seed(0)
    net = PixelRNN((1, 2, 2), 2, layer, width=8, depth=1)
    x = torch.tensor([[0, 1, 1, 0]])
    whole = System({"main": net}, NextToken(2), Autoregressive(), Levels((1, 2, 2), 2))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(60):
        loss, _ = whole.objective.phases()[0].move(whole, {"code": x}, Streams.of(step, 1), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images = torch.tensor(list(itertools.product(range(2), repeat=4)))
    with torch.no_grad():
        nats = whole.objective.score(whole, {"code": images}, Streams.of(0, 16))
    assert nats is not None and int(nats.argmin()) == 6 and float(nats.min()) < 0.1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"layer": "diag"}, "unknown layer of pixelrnn 'diag'. Did you mean 'diagonal'"),
        ({"data": "stdlib_prose"}, "pixelrnn models images"),
    ],
)
def test_bad_dials_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        pixelrnn(**arguments)
