"""The quick forms equal the textbook's: norms by channel sums, upsampling inside a convolution, attention row by row."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.channels_last import attend, norm_silu, up_conv


def slopes(call, *inputs: Tensor) -> list[Tensor]:
    """The result and its gradients by every input."""
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    out = call(*inputs)
    towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=out.dtype)
    return [out, *torch.autograd.grad((out * towards).sum(), inputs)]


def test_upsampling_and_convolution_are_one() -> None:
    conv = nn.Conv2d(6, 5, 3, padding=1).double()
    x = torch.randn(2, 6, 4, 7, dtype=torch.float64)
    for found, expected in zip(
        slopes(lambda x: up_conv(x, conv), x),
        slopes(lambda x: conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), x),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [1.0, 40.0])  # small scores need no maximum; large ones overflow without it
@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_softmax(heads: int, size: float) -> None:
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


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own compiler uses it
@pytest.mark.skipif(shutil.which("g++") is None, reason="nothing compiles here without g++")
@pytest.mark.parametrize("silu", [True, False])
def test_compiled_norms_are_pytorchs(silu: bool) -> None:
    norm = nn.GroupNorm(4, 24)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x, y = torch.randn(2, 16, 3, 5) + 2, torch.randn(2, 8, 3, 5)  # a group of six lies in both
    shift = torch.randn(2, 24)

    def call(x: Tensor, y: Tensor, shift: Tensor) -> Tensor:
        return norm_silu((x, y), norm, shift, silu)

    for found, expected in zip(slopes(torch.compile(call), x, y, shift), slopes(call, x, y, shift), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
