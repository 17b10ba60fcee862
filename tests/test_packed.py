"""Matrices in few bits: products are those of float64, what lies on the grid stays, and nothing native is needed."""

from __future__ import annotations

import copy
import os
import shutil

import pytest
import torch
from torch import Tensor, nn

from maquette.nn import native, packed
from maquette.nn.packed import Packed, matrix, product, quantised

NATIVE = pytest.mark.skipif(not native.built(), reason="nothing compiles here")
SHAPES = [(48, 64), (50, 100), (1, 7), (33, 352), (130, 31)]  # out, in


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def nothing_native(monkeypatch):
    """As where no compiler is."""
    monkeypatch.setenv("MAQUETTE_NATIVE", "0")
    native.library.cache_clear()
    yield
    monkeypatch.undo()
    native.library.cache_clear()


def off(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> float:
    """How far y is from the product in float64, in shares of the sums of its terms' sizes."""
    x, weight, bias = x.double(), weight.detach().double(), bias.detach()
    return float(((y - x @ weight.T - bias).abs() / (x.abs() @ weight.abs().T + bias.abs())).max())


@NATIVE
@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_few_rows_times_a_matrix(bits, rows):
    for i, (out, into) in enumerate(SHAPES):
        x, weight, bias = numbers(rows, into, seed=i), numbers(out, into, seed=9), numbers(out, seed=8)
        held: list[Tensor] = []
        if bits > 8:
            plain = nn.Linear(into, out, dtype={32: torch.float32, 16: torch.bfloat16}[bits])
            plain.weight.data, plain.bias.data = weight.to(plain.weight.dtype), bias.to(plain.weight.dtype)
            x = x.to(plain.weight.dtype).float()  # that is how rows are read
            y = product(matrix(plain, held), x)
            assert off(y, x, plain.weight, plain.bias.double()) < 1e-6
        else:
            group = 64 if i % 2 else 32
            layer = Packed.of(weight, bias, bits, group)
            y = product(matrix(layer, held), x)
            assert off(y, x, layer.weight, bias) < 5e-5  # rows are read in 16 bits


@NATIVE
def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    weight, x = numbers(300, 96), numbers(3, 96, seed=1)
    held: list[torch.Tensor] = []
    by = matrix(weight, held)
    found = []
    for count in (1, 2, 5, 3, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        found.append([product(by, x) for _ in range(20)])
    assert all(torch.equal(found[0][0], y) for ys in found for y in ys)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_a_matrix_on_the_grid_is_kept(group):
    places = torch.randint(16, (40, 256), generator=torch.Generator().manual_seed(0))
    steps = torch.randint(-127, 128, (40, 256), generator=torch.Generator().manual_seed(1))
    steps[:, ::group], places[:, ::group] = 127, 0  # the scale is known by its largest
    scale = 2.0 ** torch.randint(-8, 0, (40, 256 // group), generator=torch.Generator().manual_seed(2))
    scale = scale.repeat_interleave(group, 1)
    for bits, numbers_ in ((8, steps.float()), (4, torch.tensor(packed.TABLE).float()[places])):
        layer = Packed.of(numbers_ * scale, None, bits, group)
        assert torch.equal(layer.weight, numbers_ * scale)


def test_errors_are_those_of_the_bits():
    weight = numbers(256, 512)
    errors = {b: float((Packed.of(weight, None, b).weight - weight).norm() / weight.norm()) for b in (8, 4)}
    assert errors[8] < 0.006
    assert errors[4] < 0.076  # even steps of the same 4 bits: 0.091, and 0.083 where a group's largest may be at either end


def test_zeros_stay_and_rows_of_zeros_cost_nothing_else():
    weight = numbers(20, 70)
    weight[3], weight[:, 64:] = 0, 0
    for bits in (8, 4):
        again = Packed.of(weight, None, bits).weight
        assert not again[3].any()
        assert not again[:, 64:].any()
        assert again.isfinite().all()


@pytest.mark.parametrize("bits", [8, 4])
def test_without_a_compiler_it_is_the_same(bits, request):
    weight, bias, few, many = numbers(50, 100), numbers(50), numbers(3, 100, seed=1), numbers(20, 100, seed=2)
    layer = Packed.of(weight, bias, bits)
    with torch.no_grad():
        want = layer(few), layer(many)
        request.getfixturevalue("nothing_native")
        assert not native.built()
        other = Packed.of(weight, bias, bits)
        assert torch.equal(other.codes, layer.codes)
        assert torch.equal(other.scales, layer.scales)
        torch.testing.assert_close(layer(few), want[0], rtol=0, atol=1e-3)
        torch.testing.assert_close(layer(many), want[1], rtol=0, atol=1e-5)


def test_a_packed_layer_is_a_linear_layer_of_its_weight():
    for bits in (8, 4):
        layer = Packed.of(numbers(33, 70), numbers(33), bits)
        for x in (numbers(2, 4, 70), numbers(5, 70).bfloat16(), numbers(40, 70).bfloat16()):
            with torch.no_grad():
                want = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
                assert layer(x).dtype == x.dtype
                torch.testing.assert_close(layer(x).double(), want, rtol=0.02, atol=0.06 if x.dtype == torch.bfloat16 else 2e-3)


def test_a_packed_network_is_saved_and_loaded():
    net = nn.Sequential(nn.Linear(70, 40), nn.GELU(), nn.Linear(40, 20, bias=False))
    made = quantised(net, 4)
    empty = copy.deepcopy(made)
    for each in (empty[0], empty[2]):
        each.codes.zero_(), each.scales.zero_()
    empty.load_state_dict(made.state_dict())
    x = numbers(3, 70).bfloat16()
    with torch.no_grad():
        assert torch.equal(empty(x), made(x))
        assert float((made(x) - net(x.float())).norm() / net(x.float()).norm()) < 0.2
    assert sum(b.numel() * b.element_size() for b in made[0].state_dict().values()) < 40 * 70 * 4 / 4


def test_what_is_not_to_be_had_is_named():
    with pytest.raises(ValueError, match="bits are 5; allowed are 32, 16, 8, 4, nearest is 4"):
        quantised(nn.Linear(4, 4), 5)
    with pytest.raises(ValueError, match=r"8 bits in groups of 30; .* nearest is 8 by 32"):
        Packed(64, 64, 8, 30)


def test_where_a_compiler_is_it_builds():
    """A mistake in the sources would else be seen as a slow library alone."""
    if shutil.which("g++") is None or os.environ.get("MAQUETTE_NATIVE") == "0":
        pytest.skip("nothing compiles here")
    assert native.built()


def test_what_is_not_finite_is_not_packed():
    weight = torch.randn(32, 64)
    weight[3, 5] = torch.nan
    with pytest.raises(ValueError, match="a matrix of 32 x 64 holds numbers that are not finite"):
        Packed.of(weight)


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_that_are_no_numbers_give_none(bits):
    x = torch.randn(3, 64)
    x[1, 7], x[2, 50] = torch.nan, torch.inf
    with torch.no_grad():  # natively
        y = Packed.of(torch.randn(32, 64), bits=bits)(x)
    assert bool(y[0].isfinite().all()) and not bool(y[1:].isfinite().any())
