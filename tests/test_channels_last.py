"""The quick forms equal the textbook's: norms by channel sums, upsampling inside a convolution, attention row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck
from torch.nn import functional as F

from maquette.nn import attention, channels_last
from maquette.nn.channels_last import Pointwise, attend, geglu, heed, norm_silu, up_conv
from maquette.nn.native import built

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def slopes(call, *inputs: Tensor) -> list[Tensor]:
    """The result and its gradients by every input."""
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    out = call(*inputs)
    towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=out.dtype)
    return [out, *torch.autograd.grad((out * towards).sum(), inputs)]


@pytest.mark.parametrize("height", [4, 24])  # few places and many
def test_upsampling_and_convolution_are_one(height: int) -> None:
    conv = nn.Conv2d(6, 5, 3, padding=1).double()
    x = torch.randn(2, 6, height, 7, dtype=torch.float64)
    for found, expected in zip(
        slopes(lambda x: up_conv(x, conv), x),
        slopes(lambda x: conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), x),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("most", [channels_last.MOST, 0])
@pytest.mark.parametrize("size", [1.0, 40.0])  # small scores need no maximum; large ones overflow without it
@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_softmax(heads: int, size: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels_last, "MOST", most)
    q, k, v = (torch.randn(2, heads, 8, 10) for _ in range(3))
    q, k = q * size, k * size
    found = slopes(attend, q, k, v)
    expected = slopes(lambda q, k, v: F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT, q, k, v)
    for one, other in zip(found, expected, strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, atol=2e-5 * size, rtol=1e-4)


def test_attention_in_bfloat16_is_as_near_as_theirs() -> None:
    q, k, v = (torch.randn(2, 4, 8, 64, dtype=torch.float64) for _ in range(3))

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT

    exact = slopes(plain, q, k, v)
    half = [x.bfloat16() for x in (q, k, v)]
    for one, other, truth in zip(slopes(attend, *half), slopes(plain, *half), exact, strict=True):
        assert (one - truth).norm() < 2 * (other - truth).norm() + 0.01 * truth.norm()


@pytest.mark.skipif(not built(), reason="nothing compiles here")
@pytest.mark.parametrize("size", [1.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("places", "seen", "head"), [(16, 77, 8), (9, 33, 40), (1, 1, 3), (21, 32, 16), (8, 100, 72)])
def test_heed_is_softmax(places: int, seen: int, head: int, dtype: torch.dtype, size: float) -> None:
    """Without gradients native, whatever the sizes; masked and not; q, k and v apart or parts of one tensor."""
    heads = 3
    exact = [torch.randn(2, n, heads * head, dtype=torch.float64) * s for n, s in ((places, size), (seen, 1), (seen, 1))]
    exact = [x.to(dtype).double() for x in exact]
    q, k, v = (x.to(dtype) for x in exact)
    both = torch.cat([k, v], 2).chunk(2, 2)  # not contiguous
    mask = torch.rand(2, seen) < 0.5
    mask[:, 0] = True
    near = {"atol": 3e-5 * size, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.03, "rtol": 0.02}
    with torch.no_grad():
        for given in (None, mask):
            split = [x.unflatten(2, (heads, head)).transpose(1, 2) for x in exact]
            expected = F.scaled_dot_product_attention(*split, None if given is None else given[:, None, None])
            expected = expected.transpose(1, 2).flatten(2)
            for found in (heed(q, k, v, heads, given), heed(q, *both, heads, given)):
                torch.testing.assert_close(found.double(), expected, **near)
    learned = heed(q.requires_grad_(), k, v, heads, mask)  # PyTorch's own
    torch.testing.assert_close(learned.double(), expected, **near)
    assert learned.requires_grad
    nothing = heed(q.detach(), k, v, heads, torch.zeros_like(mask))
    torch.testing.assert_close(nothing.double(), v.double().mean(1, keepdim=True).expand_as(q), **near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_geglu_is_pytorchs(dtype: torch.dtype) -> None:
    x = torch.cat([torch.randn(2, 7, 32), torch.linspace(-9, 9, 448).view(2, 7, 32)], 2).to(dtype)
    value, gate = x.double().chunk(2, -1)
    near = {"atol": 1e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-3, "rtol": 1e-2}
    with torch.no_grad():
        torch.testing.assert_close(geglu(x).double(), value * F.gelu(gate), **near)
    assert geglu(x.requires_grad_()).requires_grad


def test_a_pointwise_convolution_is_one() -> None:
    conv, x = Pointwise(6, 4).double(), torch.randn(2, 6, 3, 5, dtype=torch.float64)
    expected = F.conv2d(x, conv.weight, conv.bias)
    torch.testing.assert_close(conv(x), expected)
    torch.testing.assert_close(conv(x.flatten(2).mT), expected.flatten(2).mT)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups"), [(32, 4), (48, 16)])
@pytest.mark.parametrize("silu", [True, False])
def test_norms_are_pytorchs(
    silu: bool, channels: int, groups: int, dtype: torch.dtype, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if quick and not built():
        pytest.skip("nothing compiles here")
    if not quick:
        monkeypatch.setattr(channels_last, "built", lambda: False)
    norm = nn.GroupNorm(groups, channels)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x, shift = torch.randn(2, channels, 3, 5) + 2, torch.randn(2, channels)
    x = x.to(dtype)

    def plain(x: Tensor, shift: Tensor, *_: Tensor) -> Tensor:
        y = norm(x.float() + shift[:, :, None, None])
        return (F.silu(y) if silu else y).to(dtype)

    found = slopes(lambda x, shift: norm_silu(x, norm, shift, silu), x, shift)
    near = {"atol": 3e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.08, "rtol": 0.02}
    for one, other in zip(found, slopes(plain, x, shift), strict=True):
        torch.testing.assert_close(one, other, **near)


def test_weights_and_biases_of_norms_learn_as_pytorchs() -> None:
    norm, x = nn.GroupNorm(4, 32), torch.randn(2, 32, 3, 5) - 1
    found = torch.autograd.grad(norm_silu(x, norm).square().sum(), [norm.weight, norm.bias])
    expected = torch.autograd.grad(F.silu(norm(x)).square().sum(), [norm.weight, norm.bias])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not built(), reason="nothing compiles here")
def test_threads_share_out_the_rows() -> None:
    norm, x = nn.GroupNorm(4, 32), torch.randn(5, 32, 4, 4)
    alone, threads = norm_silu(x, norm), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(norm_silu(x, norm), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not built(), reason="nothing compiles here")
def test_the_compiler_may_see_them() -> None:
    """What torch.compile is told of shapes, strides and gradients is true."""
    x, per_channel = torch.randn(2, 32, 4, 4).to(memory_format=torch.channels_last), torch.randn(2, 32)
    parameters = [torch.randn(32, requires_grad=True) for _ in range(2)]
    opcheck(channels_last._norm_silu, (x.requires_grad_(), per_channel, *parameters, 4, 1e-5, True), test_utils=CHECKS)
    q, k, v = (torch.randn(2, 3, 4, 8, requires_grad=True) for _ in range(3))
    opcheck(channels_last._weigh, (q, k, v), test_utils=CHECKS)
    with torch.no_grad():
        q, k, v = torch.randn(2, 9, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
        opcheck(channels_last._heed, (q, k, v, 2, None), test_utils=CHECKS)
        opcheck(channels_last._geglu, (torch.randn(3, 5, 64),), test_utils=CHECKS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_heads_apart_is_the_textbooks(dtype):
    """Grouped, causal behind a memory, within a window, and to everything: beside sums in float64."""
    rng = torch.Generator().manual_seed(0)
    for batch, heads, groups, new, seen, size in (
        (2, 4, 2, 17, 17, 24),
        (1, 4, 4, 40, 70, 64),
        (2, 3, 1, 9, 200, 16),
        (9, 2, 1, 17, 32, 16),
    ):
        q = torch.randn(batch, new, heads, size, generator=rng).to(dtype).transpose(1, 2)
        k, v = (torch.randn(batch, groups, seen + 5, size, generator=rng).to(dtype)[:, :, :seen] for _ in "kv")
        for near in (0, seen, 1, 7, 64):
            place = torch.arange(seen)
            far = place[seen - new :, None] - place
            open_ = (far >= 0) & (far < near) if near else torch.ones(new, seen, dtype=torch.bool)
            scores = q.double() @ k.double().repeat_interleave(heads // groups, 1).mT * 0.2
            weights = scores.masked_fill(~open_, -torch.inf).softmax(-1)
            want = (weights @ v.double().repeat_interleave(heads // groups, 1)).transpose(1, 2).flatten(2)
            if not built():
                pytest.skip("nothing compiles here")
            y = channels_last.hear(q, k, v, None, near, 0.2)
            torch.testing.assert_close(y.double(), want, rtol=0, atol=2e-2 if dtype == torch.bfloat16 else 2e-6)


def test_what_is_no_number_stays_none():
    """Attention, in both precisions, to keys of which one is no number."""
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.randn(1, 2, 20, 16).to(dtype) for _ in "qkv")
        k[0, 0, 3, 5] = torch.nan
        found = attention.attend(q, k, v, causal=True)[0]
        assert not bool(found[0, 3:].isfinite().any()) and bool(found[0, :3].isfinite().all() and found[1].isfinite().all())


def test_attention_to_what_is_not_alike_is_not_native():
    """One row of keys for several of queries; nothing to hear at all; a scale that is a whole number."""
    q, k = torch.randn(3, 2, 5, 16), torch.randn(1, 2, 9, 16)
    many = k.expand(3, -1, -1, -1).contiguous()
    torch.testing.assert_close(attention.attend(q, k, k, causal=False), attention.attend(q, many, many, causal=False))
    assert attention.attend(q, q[:, :, :0], q[:, :, :0], causal=False).shape == q.shape
    with pytest.raises(RuntimeError):
        attention.attend(q, q.bfloat16(), q.bfloat16(), causal=False)
    torch.testing.assert_close(attention.attend(q, q, q, True, scale=1), attention.attend(q, q, q, True, scale=1.0))
    one, mask = torch.randn(3, 5, 32), torch.arange(5)[None] < 3
    torch.testing.assert_close(heed(one, one, one, 2, mask), heed(one, one, one, 2, mask.expand(3, -1)))
