"""GELU equals PyTorch's, and so do its slopes, native or not."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck
from torch.nn import functional as F

from maquette.nn.gelu import _gelu, gelu
from maquette.nn.native import built


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 32), (2, 5, 7), (2, 0, 32)])
def test_gelu_is_pytorchs(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    x, grad = (4 * torch.randn(shape)).to(kind).requires_grad_(), torch.randn(shape).to(kind)
    near = 1e-5 if kind == torch.float32 else 2e-2
    expected, found = F.gelu(x, approximate="tanh"), gelu(x)
    torch.testing.assert_close(found, expected, atol=near, rtol=near)
    slopes = [torch.autograd.grad(y, x, grad)[0] for y in (found, expected)]
    torch.testing.assert_close(*slopes, atol=near, rtol=near)
    with torch.no_grad():
        far = gelu(torch.tensor([-300.0, 300.0] * 8).to(kind)).float()  # where sums of powers overflow
        torch.testing.assert_close(far, torch.tensor([0.0, 300.0] * 8), atol=1e-30, rtol=0)


@pytest.mark.skipif(not built(), reason="nothing compiles here")
def test_the_compiler_may_see_it() -> None:
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(_gelu, (torch.randn(2, 16, requires_grad=True),), test_utils=checks)
