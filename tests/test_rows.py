"""What is done to rows natively equals the textbook's, and so do its slopes, however the rows lie and whoever shares the work."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.nn import gelu as bells
from maquette.nn import mlp, norm, positions, rows
from maquette.nn.gelu import gelu, quick_gelu
from maquette.nn.mlp import Gated
from maquette.nn.native import built
from maquette.nn.norm import RMSNorm, adaptive, gated
from maquette.nn.positions import picture_turns, rotate, rotate_pairs, turns

needs = pytest.mark.skipif(not built(), reason="nothing compiles here")
PLACES = 70  # more than a block of rows
TURN = turns(3, PLACES, 64)
OF_PICTURE = picture_turns(6, 8, 8, (16, 24, 24))


def normed(one: bool) -> Callable[[Tensor], Tensor]:
    layer = RMSNorm(64, one=one)
    torch.nn.init.normal_(layer.weight)  # type: ignore[arg-type]
    return layer


def fed(act: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The gate alone: matrices that leave all as it is."""
    layer = Gated(64, 32, act)
    layer.gate_up.weight.data, layer.down = torch.eye(64), torch.nn.Identity()  # type: ignore[assignment]
    return lambda x: layer.to(x.dtype)(x)


DONE = {
    "norm": lambda: RMSNorm(64, gain=False),
    "norm with gain": lambda: normed(False),
    "norm with 1 + gain": lambda: normed(True),
    "turn": lambda: lambda x: rotate(x, TURN),
    "turn of neighbours": lambda: lambda x: rotate_pairs(x.transpose(1, 2), OF_PICTURE).transpose(1, 2),
    "gelu": lambda: gelu,
    "quick gelu": lambda: quick_gelu,
    "silu gate": lambda: fed(F.silu),
    "gelu gate": lambda: fed(gelu),
}
LYING = {
    "one after the other": lambda: torch.randn(2, 3, PLACES, 64),
    "heads apart": lambda: torch.randn(2, PLACES, 5, 64).transpose(1, 2)[:, 1:4],
    "numbers apart": lambda: torch.randn(2, 3, 64, PLACES).mT,
    "one for all": lambda: torch.randn(2, 1, PLACES, 64).expand(2, 3, PLACES, 64),
    "none": lambda: torch.randn(0, 3, PLACES, 64),
}


def plainly(monkeypatch) -> None:
    for module in (norm, positions, bells, mlp):
        monkeypatch.setattr(module, "fit", lambda *a: False)


@needs
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lying", LYING)
@pytest.mark.parametrize("done", DONE)
def test_what_is_done_natively_is_the_textbooks(done, lying, kind, monkeypatch):
    do, x = DONE[done](), (3 * LYING[lying]()).to(kind).detach().requires_grad_()
    assert rows.fit(x, 32)
    learn = [x, *(do.parameters() if isinstance(do, torch.nn.Module) else ())]
    found = do(x)
    grad = torch.randn(found.shape).to(kind)
    slopes = torch.autograd.grad(found, learn, grad)
    with torch.no_grad():
        assert torch.equal(do(x), found) and found.dtype == kind
    plainly(monkeypatch)
    expected = do(x)
    near = {"atol": 2e-5, "rtol": 2e-5} if kind == torch.float32 else {"atol": 3e-2, "rtol": 3e-2}
    torch.testing.assert_close(found, expected, **near)
    for a, b in zip(slopes, torch.autograd.grad(expected, learn, grad), strict=True):
        torch.testing.assert_close(
            a, b, atol=near["atol"] * max(1.0, float(b.abs().max()) if b.numel() else 1.0), rtol=near["rtol"]
        )


@needs
@pytest.mark.parametrize("batch", [3, 0])
@pytest.mark.parametrize("kinds", ["one", "half", "mixed", "autocast"])
@pytest.mark.parametrize("done", [adaptive, gated])
def test_what_a_condition_steers_is_the_textbooks(done, kinds, batch, monkeypatch):
    """The stream may be float32 where what is added to it, or is multiplied next, is bfloat16."""
    wide = torch.float32 if kinds != "half" else torch.bfloat16
    other = torch.float32 if kinds == "one" else torch.bfloat16
    x, h = (torch.randn(batch, PLACES, 64).to(kind) for kind in (wide, other))
    steer = torch.randn(batch, 128).to(other).requires_grad_()
    learn = [x.requires_grad_(), steer, *([h.requires_grad_()] if done is gated else ())]

    def do() -> Tensor:
        one, two = steer.chunk(2, 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=kinds == "autocast"):
            return gated(x, one, h) if done is gated else adaptive(x, one, two)

    found = do()
    assert found.dtype == (torch.bfloat16 if kinds == "autocast" and done is adaptive else wide)
    grad = torch.randn(found.shape).to(found.dtype)
    slopes = torch.autograd.grad(found, learn, grad)
    with torch.no_grad():
        assert torch.equal(do(), found)
    plainly(monkeypatch)
    expected = do()
    near = 2e-5 if kinds == "one" else 3e-2
    torch.testing.assert_close(found, expected.to(found.dtype), atol=near, rtol=near)
    for a, b in zip(slopes, torch.autograd.grad(expected, learn, grad.to(expected.dtype)), strict=True):
        most = max(1.0, float(b.abs().max()) if b.numel() else 1.0)
        torch.testing.assert_close(a, b, atol=near * most, rtol=near)


@needs
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seen", [32, 45, 7])
@pytest.mark.parametrize("mask", ["none", "causal", "rows", "places"])
def test_scores_are_softened_as_the_textbook_has_it(mask, seen, kind):
    x = (3 * torch.randn(2, 3, 5, seen)).to(kind).requires_grad_()
    told = {"none": None, "causal": torch.ones(5, seen, dtype=torch.bool).tril(seen - 5)}
    told |= {"rows": torch.rand(2, 1, 1, seen) < 0.5, "places": torch.rand(2, 1, 5, seen) < 0.5}
    sees = told[mask]
    if sees is not None:
        sees[..., 0] = True
    found = rows.softened(x, sees, 0.3)
    wide = (0.3 * x.float()) if sees is None else (0.3 * x.float()).masked_fill(~sees, -torch.inf)
    expected, grad = wide.softmax(-1), torch.randn(x.shape).to(kind)
    near = 1e-6 if kind == torch.float32 else 1e-2
    torch.testing.assert_close(found.float(), expected, atol=near, rtol=near)
    slopes = [torch.autograd.grad(y, x, grad.to(y.dtype))[0].float() for y in (found, expected)]
    torch.testing.assert_close(*slopes, atol=near, rtol=near)


@needs
def test_who_sees_nothing_gets_no_number():
    sees = torch.tensor([[True] * 20, [False] * 20])
    found = rows.softened(torch.randn(1, 2, 2, 20), sees, 1.0)
    assert not found[:, :, 0].isnan().any() and found[:, :, 1].isnan().all()


@needs
def test_sums_over_rows_do_not_hang_on_who_shares_the_work():
    x, layer = torch.randn(500, 64), normed(False)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(torch.autograd.grad(layer(x).square().sum(), layer.parameters())[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


@needs
@pytest.mark.parametrize(
    ("x", "sixteens"), [(torch.zeros(2, 24), 16), (torch.zeros(2, 48), 32), (torch.zeros(2, 64).double(), 16)]
)
def test_what_is_no_sixteens_or_of_another_kind_is_done_plainly(x, sixteens):
    assert not rows.fit(x, sixteens)


@pytest.mark.parametrize("width", [7, 16])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_gelu_far_out(width, kind):
    """Where sums of powers overflow."""
    x = torch.tensor([-300.0, 300.0]).to(kind)[:, None].expand(2, width)
    torch.testing.assert_close(gelu(x).float(), torch.tensor([0.0, 300.0])[:, None].expand(2, width), atol=1e-30, rtol=0)
